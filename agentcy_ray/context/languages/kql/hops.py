"""One hop of a graph pattern as a relation: ``_from``, ``_to``, and what identifies its edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlglot import exp

from agentcy_ray.context.languages import facts
from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.facts import function, joined, text_of
from agentcy_ray.context.languages.frames import Frame, selected
from agentcy_ray.context.languages.kql import tree
from agentcy_ray.context.languages.values import Value, list_item, to_text

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.pipelines import Pipelines


@dataclass(frozen=True, slots=True)
class Walk:
    """A hop's relation. ``varies``: it holds ``_path`` (the edges' ids) and ``_hops``."""

    frame: Frame
    varies: bool
    maps: tuple[str, ...] = ()

    def columns(self, alias: str) -> dict[str, Value]:
        """What a query may read of the hop."""
        if not self.varies:
            return dict(self.frame.values(alias))
        found = {"_hops": Value(column("_hops", alias), "long", nullable=False)}
        for name in self.maps:
            items = joined([exp.Literal.string("l"), function(
                "substr", column(f"_map:{name}", alias), 2
            )])  # fmt: skip
            found[f"_map:{name}"] = Value(items, "dynamic", nullable=False)
        return found

    def apart(self, alias: str, other: Walk, other_alias: str) -> exp.Expr:
        """The condition that two hops share no edge."""
        one, two = column("_path", alias), column("_path", other_alias)
        if not self.varies and not other.varies:
            return exp.NEQ(this=one, expression=two)
        if self.varies and other.varies:
            shared = function("array_has_any", *(
                function("string_to_array", function("btrim", path, text_of(facts.ITEM)),
                         text_of(facts.ITEM))
                for path in (one, two)
            ))  # fmt: skip
            return exp.Not(this=shared)
        path, edge = (one, two) if self.varies else (two, one)
        return exp.EQ(this=function("strpos", path, edge), expression=exp.Literal.number(0))


@dataclass(frozen=True, slots=True)
class Edges:
    """How edges become hops: which columns are their ends, and in which direction they count."""

    pipes: Pipelines
    ends: tuple[str, str]
    hop: tree.Hop
    unique: bool

    def walk(self, first: Frame, steps: Frame, maps: list[str]) -> Walk:
        """The hop as a relation.

        Args:
            first: edges that a walk may begin with.
            steps: edges of its further hops.
            maps: columns of which a walk keeps the values.
        """
        if self.hop.hops is None:
            return Walk(self._directed(first, first.values()), varies=False)
        low, high = self.hop.hops
        kept = [(f"_map:{name}", self._kept(steps, name)) for name in maps]
        begin = self._directed(first, [(name, value) for name, value in kept])
        further = begin if first is steps else self._directed(steps, kept)
        levels = [self._first(begin, kept)]
        for _ in range(1, high):
            levels.append(self._next(levels[-1], further, kept))
        whole: exp.Query | None = None
        for number, level in enumerate(levels[low - 1 :], start=low):
            hops = exp.alias_(exp.Literal.number(number), "_hops", quoted=True)
            names = ["_from", "_to", "_path", *(name for name, _ in kept)]
            rows = exp.select(*(column(name) for name in names), hops).from_(level.relation)
            whole = rows if whole is None else exp.union(whole, rows, distinct=False, copy=False)
        assert whole is not None
        return Walk(self.pipes.plan.stage(whole, []), varies=True, maps=tuple(maps))

    def _kept(self, frame: Frame, name: str) -> Value:
        found = frame.find(name)
        assert found is not None
        text = function("coalesce", list_item(frame.value(found)), "z")
        return Value(joined([text_of(facts.ITEM), text]), "string")

    def _directed(self, frame: Frame, columns: list[tuple[str, Value]]) -> Frame:
        """Edges with ``_from``, ``_to`` and ``_path``; both ways round when the hop has none."""
        source, target = (column(name) for name in self.ends)
        if self.hop.direction == "in":
            source, target = target, source
        forward = self._rows(frame, columns, source, target)
        if self.hop.direction != "both":
            return self.pipes.plan.stage(forward, columns)
        loop = exp.NEQ(this=source.copy(), expression=target.copy())
        backward = self._rows(frame, columns, target.copy(), source.copy()).where(loop)
        both = exp.union(forward, backward, distinct=False, copy=False)
        return self.pipes.plan.stage(both, columns)

    def _rows(
        self, frame: Frame, columns: list[tuple[str, Value]], start: exp.Expr, end: exp.Expr
    ) -> exp.Select:
        own = [
            exp.alias_(start, "_from", quoted=True),
            exp.alias_(end, "_to", quoted=True),
            exp.alias_(self._identity(frame), "_path", quoted=True),
        ]
        return exp.select(*own, *selected(columns)).from_(frame.relation)

    def _identity(self, frame: Frame) -> exp.Expr:
        """An edge's id between two separators; all its values where it has no id."""
        if (found := frame.find("id")) is not None:
            parts = [to_text(frame.value(found))]
        else:
            parts = []
            for _, value in frame.values():
                parts += [text_of(facts.MARK), to_text(value)]
        whole = function("concat", *parts) if len(parts) > 1 else parts[0]
        return joined([text_of(facts.ITEM), whole, text_of(facts.ITEM)])

    def _first(self, edges: Frame, kept: list[tuple[str, Value]]) -> Frame:
        names = ["_from", "_to", "_path", *(name for name, _ in kept)]
        rows = exp.select(*(column(name) for name in names)).from_(edges.relation)
        return self.pipes.plan.stage(rows, [])

    def _next(self, level: Frame, edges: Frame, kept: list[tuple[str, Value]]) -> Frame:
        """One hop further."""
        path = function("concat", column("_path", "w"), function("substr", column("_path", "s"), 2))
        items = [
            column("_from", "w"), column("_to", "s"), exp.alias_(path, "_path", quoted=True),
        ]  # fmt: skip
        for name, _ in kept:
            both = function("concat", column(name, "w"), column(name, "s"))
            items.append(exp.alias_(both, name, quoted=True))
        on: exp.Expr = exp.EQ(this=column("_to", "w"), expression=column("_from", "s"))
        rows = exp.select(*items).from_(exp.to_table(level.relation, alias="w"))
        rows = rows.join(exp.to_table(edges.relation, alias="s"), on=on, join_type="inner")
        if self.unique:
            again = function("strpos", column("_path", "w"), column("_path", "s"))
            rows = rows.where(exp.EQ(this=again, expression=exp.Literal.number(0)))
        return self.pipes.plan.stage(rows, [])
