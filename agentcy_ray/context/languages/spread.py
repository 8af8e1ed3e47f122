"""How long the expressions of a statement become when an engine writes columns out.

DataFusion moves a filter below the steps that computed its columns, and puts their expressions in
the place of the columns, as often as they are named. Thirty steps that each name the one before
twice are two kilobytes of text, and hours and gigabytes of planning that no time limit ends. So
what would come of it is counted here, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from sqlglot import Expr, exp

Lengths = Mapping[str, int]
"""Parts of each column of a relation, by its name in lower case; one that is not there has one."""
_BARRIERS = ("unnest",)
"""Functions below which nothing is moved."""


def spread(statement: Expr) -> int:
    """The parts of the longest expression of a statement, with every column written out."""
    found = _Spread()
    if isinstance(statement, exp.Query):
        found.query(statement, {})
    else:
        found.length(statement, {}, {})
    return found.longest


class _Spread:
    def __init__(self) -> None:
        self.longest = 0

    def query(self, query: exp.Query, known: Mapping[str, Lengths]) -> Lengths:
        """The columns of a query, which reads ``known`` relations."""
        tables = dict(known)
        for step in query.ctes:
            tables[step.alias.lower()] = self._body(step.this, tables)
        return self._body(query, tables, own=True)

    def _body(self, query: Any, tables: Mapping[str, Lengths], *, own: bool = False) -> Lengths:
        if not own and isinstance(query, exp.Query) and query.ctes:
            return self.query(query, tables)
        if isinstance(query, exp.Subquery):
            return self._body(query.this, tables)
        if isinstance(query, exp.SetOperation):
            left, right = (self._body(side, tables) for side in (query.left, query.right))
            longest = zip(left.items(), right.values(), strict=False)
            return {name: max(one, other) for (name, one), other in longest}
        if not isinstance(query, exp.Select):
            return {}
        sources = {name: self._source(each, tables) for name, each in _sources(query)}
        columns: dict[str, int] = {}
        for shown in query.expressions:
            if shown.is_star:
                of = cast("str", getattr(shown, "table", "") or "").lower()
                for name, source in sources.items():
                    if not of or name == of:
                        columns |= source
                continue
            columns[shown.alias_or_name.lower()] = self.length(shown, sources, tables)
        for name, part in query.args.items():
            if name not in ("expressions", "with_", "with", "from_", "from"):
                for each in part if isinstance(part, list) else [part]:
                    if isinstance(each, exp.Join):
                        each = each.args.get("on")
                    if isinstance(each, exp.Expr):
                        self.length(each, sources, tables)
        return columns

    def _source(self, source: Expr, tables: Mapping[str, Lengths]) -> Lengths:
        if isinstance(source, exp.Table):
            return tables.get(source.name.lower(), {})
        return self._body(source, tables) if isinstance(source, exp.Subquery) else {}

    def length(
        self, expression: Expr, sources: Mapping[str, Lengths], tables: Mapping[str, Lengths]
    ) -> int:
        """The parts of an expression over some sources; subqueries in it are looked at too."""
        parts, waiting = 0, [expression]
        while waiting:
            part = waiting.pop()
            parts += 1
            if isinstance(part, exp.Column):
                parts += _of(part, sources)
            elif isinstance(part, exp.Query):
                self.query(part, tables)
            elif isinstance(part, exp.AggFunc | exp.Window | exp.Unnest) or (
                isinstance(part, exp.Anonymous) and part.name.lower() in _BARRIERS
            ):
                inside = [self.length(each, sources, tables) for each in part.iter_expressions()]
                self.longest = max(self.longest, *inside, 0)
            else:
                waiting += part.iter_expressions()
        self.longest = max(self.longest, parts)
        return parts


def _sources(query: exp.Select) -> Iterator[tuple[str, Expr]]:
    """What a select reads, by the names that it is known under."""
    first = query.args.get("from_") or query.args.get("from")
    places = [first.this] if first is not None else []
    places += [join.this for join in query.args.get("joins") or ()]
    for place in places:
        yield place.alias_or_name.lower(), place


def _of(column: exp.Column, sources: Mapping[str, Lengths]) -> int:
    name, table = column.name.lower(), column.table.lower()
    if table in sources:
        return sources[table].get(name, 1)
    return max((source.get(name, 1) for source in sources.values()), default=1)
