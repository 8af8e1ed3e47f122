"""Relations between stages, and the list of CTEs that a plan grows.

A ``Frame`` is what one stage hands to the next: a CTE with typed columns. Beside the columns that
the caller sees, the CTE carries columns of ours: ``_facts:<name>`` for each dynamic column that
can be read into by path, and ``_order:<n>`` for the keys of a sort, so that an order survives the
stages after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.current import (
    IMMUTABLE,
    RELATIONS,
    Table,
    column,
    relations,
)
from agentcy_ray.context.languages.facts import ITEM, PROPERTY, function, joined, text_of
from agentcy_ray.context.languages.refusals import refuse
from agentcy_ray.context.languages.values import Kind, Value, cast

MAX_STAGES = 300
"""CTEs of one query; ``let`` is expanded at each use, so a short text can grow long."""
TABLES: dict[str, Table] = {
    "context_nodes": "context_nodes", "nodes": "context_nodes",
    "context_edges": "context_edges", "edges": "context_edges",
    "context_events": "context_events", "events": "context_events",
}  # fmt: skip
"""Tables by the names that a query may use."""

_KINDS: dict[str, Kind] = {
    "at": "datetime", "first_seen": "datetime", "last_seen": "datetime",
    "archived_at": "datetime", "props": "dynamic", "label_set": "dynamic", "duration_ms": "real",
}  # fmt: skip
SCHEMA: dict[Table, tuple[str, ...]] = {
    "context_nodes": (
        "id", "labels", "label_set", "name", "realm", "source_id", "connector", "external_id",
        "props", "first_seen", "last_seen", "archived_at", "content_hash",
    ),
    "context_edges": (
        "id", "src", "dst", "type", "realm", "source_id", "props",
        "first_seen", "last_seen", "archived_at", "content_hash",
    ),
    "context_events": (
        "at", "label", "body", "props", "realm", "pipeline_id", "event_id", "service",
        "severity", "trace_id", "span_id", "duration_ms",
    ),
}  # fmt: skip
"""Columns that a query sees, in order."""
_CONVERTED = frozenset({"props", "label_set", "duration_ms"})
"""Columns that a query sees in another type than the table has them."""
_NEVER_NULL = frozenset({"id", "src", "dst", "type", "realm", "labels", "source_id"})


def kind_of(name: str) -> Kind:
    """The type of a table's column."""
    return _KINDS.get(name, "string")


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a frame; ``path`` is None unless the column can be read into."""

    name: str
    kind: Kind
    nullable: bool = True
    path: str | None = None


@dataclass(frozen=True, slots=True)
class OrderKey:
    """A column of ours that holds a sort key."""

    name: str
    descending: bool
    nulls_first: bool


@dataclass(slots=True)
class Reference:
    """One place where a query reads a table, and what may be filtered before versions count."""

    table: Table
    relation: str
    pushed: list[exp.Expr] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frame:
    """The relation after a stage. ``reference`` is set while its rows are still a table's own."""

    relation: str
    fields: tuple[Field, ...]
    order: tuple[OrderKey, ...] = ()
    reference: Reference | None = None
    keys: tuple[str, ...] = ()
    """The columns by which the rows were grouped last, for charts."""
    limit: int | None = None
    """Only so many of the rows, the first by ``order``; not yet in the CTE (see ``Plan.cut``)."""

    def find(self, name: str) -> Field | None:
        """The column of that name."""
        return next((each for each in self.fields if each.name == name), None)

    def value(self, each: Field, relation: str | None = None) -> Value:
        """A column as an expression, qualified by a relation when one is given."""
        found = column(each.name, relation)
        if each.path is None:
            return Value(found, each.kind, each.nullable)
        return Value(
            found, each.kind, each.nullable, column(f"_facts:{each.name}", relation), each.path
        )

    def values(self, relation: str | None = None) -> list[tuple[str, Value]]:
        """All columns as expressions."""
        return [(each.name, self.value(each, relation)) for each in self.fields]

    @property
    def ordered(self) -> list[exp.Ordered]:
        """The sort keys for ``ORDER BY``."""
        return [
            exp.Ordered(this=column(key.name), desc=key.descending, nulls_first=key.nulls_first)
            for key in self.order
        ]


class Plan:
    """The CTEs of one query, in the order in which they are written."""

    def __init__(self, source: str, scope: Scope, *, include_archived: bool, now: int) -> None:
        self.source = source
        self.scope = scope
        self.include_archived = include_archived
        self.now = now
        """Nanoseconds since 1970, the same for the whole query."""
        self.warnings: list[str] = []
        self.recursive = False
        self._stages: list[tuple[str, exp.Query]] = []
        self._references: list[Reference] = []

    def stage(
        self,
        select: exp.Query,
        columns: Sequence[tuple[str, Value]],
        order: tuple[OrderKey, ...] = (),
        reference: Reference | None = None,
    ) -> Frame:
        """Add a CTE whose columns are already selected."""
        if len(self._stages) >= MAX_STAGES:
            refuse(self.source, 0, self.source[:20], f"the query grows to over {MAX_STAGES} stages",
                   "use each let less often")  # fmt: skip
        relation = f"_s{len(self._stages) + 1}"
        self._stages.append((relation, select))
        return Frame(
            relation,
            tuple(
                Field(name, value.kind, value.nullable, value.path if value.facts else None)
                for name, value in columns
            ),
            order,
            reference,
        )

    def hold(self, rows: exp.Query, relation: str) -> None:
        """Add a CTE under a name of the caller's; one that reads itself makes all recursive."""
        self.recursive = self.recursive or any(
            table.name == relation for table in rows.find_all(exp.Table)
        )
        self._stages.append((relation, rows))

    def select(
        self,
        frame: Frame,
        columns: Sequence[tuple[str, Value]],
        *,
        where: exp.Expr | None = None,
        keep_order: bool = True,
        reference: Reference | None = None,
    ) -> Frame:
        """Add a CTE that reads one frame: new columns, a filter; order and limit stay."""
        order = frame.order if keep_order else ()
        chosen = exp.select(*selected(columns), *(column(key.name) for key in order))
        chosen = chosen.from_(frame.relation)
        if where is not None:
            chosen = chosen.where(where)
        made = self.stage(chosen, columns, order, reference)
        return replace(made, keys=frame.keys, limit=frame.limit)

    def cut(self, frame: Frame) -> Frame:
        """The frame with its limit put into a CTE, so that stages may be built on it."""
        if frame.limit is None:
            return frame
        columns = frame.values()
        own = [*selected(columns), *(column(key.name) for key in frame.order)]
        names = [each.alias_or_name for each in own]
        first = exp.select(*own).from_(frame.relation)
        rows = cut(first, names, frame.ordered, frame.limit)
        return replace(self.stage(rows, columns, frame.order), keys=frame.keys)

    def table(self, name: str, base: Callable[[str], Value] | None = None) -> Frame:
        """A table's current rows, as far as the scope shows them; ``base`` makes the columns."""
        table = TABLES[name]
        reference = Reference(table, f"{RELATIONS[table]}_{len(self._references) + 1}")
        self._references.append(reference)
        columns = [(each, (base or base_column)(each)) for each in SCHEMA[table]]
        select = exp.select(*selected(columns)).from_(reference.relation)
        return self.stage(select, columns, reference=reference)

    def pushable(self, reference: Reference, names: Iterable[str]) -> bool:
        """Whether a predicate over these columns may hide rows before the newest is chosen."""
        return set(names) <= IMMUTABLE[reference.table] - _CONVERTED

    def finish(self, last: exp.Select) -> exp.Select:
        """The whole statement: what the scope shows, the stages, and the last one's columns."""
        ctes: list[exp.CTE] = []
        known: set[str] = set()
        for reference in self._references:
            found = relations(
                [reference.table],
                self.scope,
                include_archived=self.include_archived,
                pushed={reference.table: reference.pushed},
            )
            for cte in found:
                if cte.alias == RELATIONS[reference.table]:
                    cte.set("alias", _alias(reference.relation))
                if cte.alias not in known:
                    known.add(cte.alias)
                    ctes.append(cte)
        ctes += [exp.CTE(this=rows, alias=_alias(name)) for name, rows in self._stages]
        whole = last.copy()
        used = _used(whole, ctes)
        if used:
            whole.set("with_", exp.With(expressions=used, recursive=self.recursive))
        return whole


def selected(columns: Sequence[tuple[str, Value]]) -> list[exp.Expr]:
    """Select items for columns and for the facts that they carry."""
    items: list[exp.Expr] = []
    for name, value in columns:
        items.append(_item(value.copy, name))
        if value.facts is not None:
            items.append(_item(value.facts.copy(), f"_facts:{name}"))
    return items


def cut(
    rows: exp.Select,
    shown: Sequence[str],
    order: Sequence[exp.Ordered],
    limit: int,
    offset: int = 0,
) -> exp.Select:
    """The first rows of a query behind an offset, by an order over its columns, counted again.

    DataFusion before 45 pushes filters below a limit, and a limit into each partition. Neither
    goes through a window, so that one on top says which rows there are.
    """
    keys = [each.copy() for each in order]
    first = rows.order_by(*keys, copy=False) if keys else rows
    first = first.limit(limit + offset, copy=False)
    rank = exp.Window(
        this=function("row_number"),
        order=exp.Order(expressions=[each.copy() for each in keys]) if keys else None,
    )
    names = [column(name) for name in shown]
    ranked = exp.select(*names, exp.alias_(rank, "_take")).from_(first.subquery("_first"))
    chosen = exp.select(*(each.copy() for each in names)).from_(ranked.subquery("_ranked"))
    place = exp.column("_take")
    chosen = chosen.where(exp.LTE(this=place, expression=exp.Literal.number(limit + offset)))
    if offset:
        chosen = chosen.where(exp.GT(this=place.copy(), expression=exp.Literal.number(offset)))
    return chosen


def some_row() -> exp.Expr:
    """``count(1) > 0``, true of every group. A filter between a grouping and a limit: DataFusion
    before 45 cannot put every limit into a grouping, and fails where it tries.
    """  # fmt: skip
    return exp.GT(this=function("count", 1), expression=exp.Literal.number(0))


def _item(sql: exp.Expr, name: str) -> exp.Expr:
    if isinstance(sql, exp.Column) and sql.name == name and not sql.table:
        return sql
    return exp.alias_(sql, name, quoted=True)


def _used(last: exp.Expr, ctes: list[exp.CTE]) -> list[exp.CTE]:
    """Those CTEs that the last relation reads, directly or through others."""
    by_name = {cte.alias: cte for cte in ctes}
    wanted: set[str] = set()
    open_: list[exp.Expr] = [last]
    while open_:
        for table in open_.pop().find_all(exp.Table):
            if table.name in by_name and table.name not in wanted:
                wanted.add(table.name)
                open_.append(by_name[table.name].this)
    return [cte for cte in ctes if cte.alias in wanted]


def _alias(name: str) -> exp.TableAlias:
    return exp.TableAlias(this=exp.to_identifier(name))


def base_column(name: str) -> Value:
    """A table's column from the current rows."""
    kind = kind_of(name)
    found = column(name)
    match name:
        case "props":
            tagged = joined([exp.Literal.string("m"), found])
            return Value(tagged, kind, facts=column("facts"))
        case "label_set":
            plain = function("btrim", found, text_of(PROPERTY))
            labels = function("replace", plain, text_of(PROPERTY), text_of(f"{ITEM}s"))
            return Value(joined([exp.Literal.string("ls"), labels]), kind)
        case "duration_ms":
            return Value(cast(found, kind, safely=True), kind)
        case "at":
            return Value(cast(found, kind), kind)
        case _:
            return Value(found, kind, nullable=name not in _NEVER_NULL)


def renamed(fields: Iterable[tuple[str, Value]]) -> list[tuple[str, Value]]:
    """Columns with each name once: a further one of a name gets 1, 2 … behind it."""
    found: dict[str, Value] = {}
    for name, value in fields:
        free, number = name, 0
        while free in found:
            number += 1
            free = f"{name}{number}"
        found[free] = value
    return list(found.items())
