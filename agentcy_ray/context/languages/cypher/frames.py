"""The rows that a clause hands to the next: a chain of common table expressions.

Every column of a query has a name of its own, so a step can say ``SELECT step.*, … AS new`` and an
expression planned earlier stays true later. The engine drops what nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sqlglot import Expr, exp

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.current import newest
from agentcy_ray.context.languages.cypher import sql, values
from agentcy_ray.context.languages.cypher.values import UNSET, Value
from agentcy_ray.context.languages.planned import parts

UNIT = "one"
LONG = 300
"""Parts of an expression that is computed once, not written into others several times over."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A superset of the ids that a node can have: literals, or a query for them.

    It is read from the raw tables, whose ids, ends and types never change, so it may be pushed
    below the choice of the newest version.
    """

    ids: tuple[str, ...] = ()
    query: exp.Query | None = None

    def holds(self, column: str) -> Expr:
        """The condition that a column's value is in the seed."""
        if self.query is not None:
            return exp.In(this=sql.col(column), query=self.query.subquery())
        if not self.ids:
            return sql.FALSE
        return exp.In(this=sql.col(column), expressions=[sql.lit(id_) for id_ in self.ids])

    def as_query(self) -> exp.Query:
        """The ids as a query of one column."""
        if self.query is not None:
            return self.query
        listed = sql.function("unnest", sql.array(sql.lit(id_) for id_ in self.ids))
        return exp.select(sql.alias(listed, "id"), copy=False)

    def hop(self, from_: str, to: str, types: Expr | None) -> exp.Select:
        """The far ends of edges that start in the seed."""
        found = exp.select(sql.alias(sql.col(to), "id"), copy=False).from_(
            "context_edges", copy=False
        )
        found = found.where(self.holds(from_), copy=False)
        return found if types is None else found.where(types, copy=False)


def united(queries: Iterable[exp.Query]) -> exp.Query:
    """``UNION ALL`` of one query or more."""
    whole, *rest = queries
    for each in rest:
        whole = exp.Union(this=whole, expression=each, distinct=False)
    return whole


class Plan:
    """What all frames of one query share: its scope and the steps so far."""

    def __init__(self, scope: Scope, *, include_archived: bool) -> None:
        self.scope = scope
        self.include_archived = include_archived
        self.steps: list[exp.CTE] = []
        self.recurs = False
        self._minted = 0

    def mint(self, prefix: str) -> str:
        """A name that no other part of the query has."""
        self._minted += 1
        return f"{prefix}{self._minted}"

    def step(self, query: exp.Query) -> str:
        """Add a step; returns its name."""
        name = self.mint("s")
        self.steps.append(exp.CTE(this=query, alias=exp.TableAlias(this=exp.to_identifier(name))))
        return name

    def grouped(self, query: exp.Query, columns: Iterable[str], keys: Iterable[str]) -> str:
        """Add a step that groups, and its keys as expressions in another.

        DataFusion 44 remembers that a key of a group tells all its columns, even after ``unnest``
        has made several rows of one, and then groups by those columns too. An expression is no
        key to it.
        """
        name, by = self.step(query), set(keys)
        shown = [
            sql.alias(sql.function("coalesce", sql.col(each), sql.col(each)), each)
            if each in by
            else sql.col(each)
            for each in columns
        ]
        return self.step(exp.select(*shown, copy=False).from_(name, copy=False))

    def recursive(self, make: Callable[[str], exp.Query]) -> str:
        """Add a step that reads itself: ``make`` gets its name."""
        name = self.mint("s")
        query = make(name)
        self.steps.append(exp.CTE(this=query, alias=exp.TableAlias(this=exp.to_identifier(name))))
        self.recurs = True
        return name

    def nodes(self, pushed: list[Expr]) -> exp.Select:
        """Visible nodes, every field."""
        return newest("context_nodes", self.scope, include_archived=self.include_archived,
                      pushed=pushed, times=False)  # fmt: skip

    def edges(self, pushed: list[Expr]) -> exp.Select:
        """Visible edges, every field; whether their ends are visible is for the pattern to say."""
        return newest("context_edges", self.scope, include_archived=self.include_archived,
                      pushed=pushed, times=False)  # fmt: skip

    def start(self) -> Frame:
        """One row without columns."""
        one = sql.alias(sql.number(1), UNIT)
        return Frame(self, self.step(exp.select(one, copy=False)), [UNIT], unit=True)


@dataclass(slots=True)
class Frame:
    """A step, its columns, and what the variables of the query are in them.

    ``order`` are the sort keys of the rows, where a clause sorted them; ``unit`` says that it is
    the one row that a query begins with; ``seeds`` by the name of an id column. Inside a subquery
    ``keys`` are the columns that say for which outer row a row is, and ``base`` is the step that
    has one row for each of them.
    """

    plan: Plan
    name: str
    columns: list[str]
    bindings: dict[str, Value] = field(default_factory=dict[str, Value])
    order: list[exp.Ordered] = field(default_factory=list[exp.Ordered])
    unit: bool = False
    seeds: dict[str, Seed] = field(default_factory=dict[str, Seed])
    keys: list[str] = field(default_factory=list[str])
    base: str = ""

    def fork(self) -> Frame:
        """The same rows, to go another way from here."""
        return replace(self, columns=list(self.columns), bindings=dict(self.bindings),
                       order=list(self.order), seeds=dict(self.seeds),
                       keys=list(self.keys))  # fmt: skip

    def become(self, other: Frame) -> None:
        """Take over the rows of another frame."""
        self.name, self.columns, self.bindings = other.name, other.columns, other.bindings
        self.order, self.unit, self.seeds = other.order, other.unit, other.seeds
        self.keys, self.base = other.keys, other.base

    def select(self) -> exp.Select:
        """Every column of the step."""
        return exp.select(
            exp.Column(this=exp.Star(), table=exp.to_identifier(self.name)), copy=False
        ).from_(self.name, copy=False)

    def grouped(self, columns: list[Expr], keys: list[Expr]) -> exp.Select:
        """Aggregates over the step, by some keys."""
        query = exp.select(*columns, copy=False).from_(self.name, copy=False)
        return query.group_by(*keys, copy=False) if keys else query

    def listed(self) -> list[Expr]:
        """Every column by its name, for the branches of a union."""
        return [sql.col(name) for name in self.columns]

    def advance(self, query: exp.Query, added: Iterable[str] = ()) -> None:
        """Go on with the rows of a query over the step, which adds some columns."""
        self.name = self.plan.step(query)
        self.columns = [*self.columns, *added]
        self.unit = False

    def filter(self, condition: Expr) -> None:
        """Keep the rows for which a condition is true."""
        self.advance(self.select().where(condition, copy=False))

    def add(self, columns: Mapping[str, Expr]) -> None:
        """Compute some columns."""
        if columns:
            query = self.select().select(
                *(sql.alias(e, name) for name, e in columns.items()), copy=False
            )
            self.advance(query, columns)

    def keep(self, found: Mapping[str, Value]) -> dict[str, Value]:
        """Values as columns of the step, so that they are computed once and may be joined upon."""
        columns: dict[str, Expr] = {}
        kept = {name: self.kept(value, columns) for name, value in found.items()}
        self.add(columns)
        return kept

    def computed(self, value: Value) -> Value:
        """A value as a column that the engine does not write out again; tagged text."""
        name = self.plan.mint("x")
        self.add({name: _fixed(values.to_any(value))})
        return Value("any", sql.col(name))

    def kept(self, value: Value, columns: dict[str, Expr]) -> Value:
        """A value that reads columns only; what must be computed for it goes to ``columns``."""
        if value.constant is not UNSET or _stable(value):
            return value
        if value.entries is not None:
            return values.map_of({k: self.kept(v, columns) for k, v in value.entries.items()})
        if value.items is not None:
            return values.list_of([self.kept(each, columns) for each in value.items])
        if value.parts is not None:
            nodes, edges = (self.kept(part, columns) for part in value.parts)
            return replace(self._column(value, columns), parts=(nodes, edges))
        return self._column(value, columns)

    def _column(self, value: Value, columns: dict[str, Expr]) -> Value:
        name = self.plan.mint("x")
        if value.kind in ("any", "node", "edge"):
            found = values.to_any(value)
            if value.kind == "any" and parts(found) > LONG:
                found = _fixed(found)
            columns[name] = found
            return values.of_tagged(sql.col(name), value.kind)
        columns[name] = value.sql
        return Value(value.kind, sql.col(name), item=value.item)

    # -- subqueries

    def imported(self, names: Iterable[str]) -> tuple[Frame, list[tuple[Expr, Expr]]]:
        """The distinct values of some variables as a frame of their own.

        Returns it with the pairs of keys, here and there, by which its rows come back (see
        ``rejoin``). Grouping makes the pair the same however often the engine computes this step.
        """
        here: list[Expr] = []
        selected: list[Expr] = []
        grouped: list[Expr] = []
        inner = Frame(self.plan, "", [])
        there: list[Expr] = []
        for name in names:
            value = self.bindings[name]
            if value.constant is not UNSET:
                inner.bindings[name] = value
                continue
            key = self.plan.mint("k")
            identity = values.key_of(value)
            here.append(identity)
            there.append(sql.col(key))
            inner.keys.append(key)
            grouped.append(identity)
            selected.append(sql.alias(identity, key))
            inner.columns.append(key)
            inner.bindings[name] = self.regrouped(value, selected, inner)
        if not selected:
            start = self.plan.start()
            inner.name, inner.columns, inner.unit = start.name, [UNIT], True
            return inner, []
        query = (
            exp
            .select(*selected, copy=False)
            .from_(self.name, copy=False)
            .group_by(*grouped, copy=False)
        )
        inner.name = inner.base = self.plan.grouped(query, inner.columns, inner.keys)
        return inner, list(zip(here, there, strict=True))

    def regrouped(self, value: Value, selected: list[Expr], inner: Frame) -> Value:
        """A value that is the same for all rows of a group, as columns of the grouped step."""

        def column(expression: Expr) -> Expr:
            name = self.plan.mint("x")
            selected.append(sql.alias(sql.function("min", expression), name))
            inner.columns.append(name)
            return sql.col(name)

        if value.fields is not None:
            fields = {name: column(each) for name, each in value.fields.items()}
            seed = self.seeds.get(_name(value.fields["id"]))
            if seed is not None:
                inner.seeds[_name(fields["id"])] = seed
            return values.entity(value.kind, fields)
        if value.entries is not None:
            return values.map_of({
                key: self.regrouped(each, selected, inner) for key, each in value.entries.items()
            })
        if value.items is not None:
            return values.list_of([self.regrouped(each, selected, inner) for each in value.items])
        if value.parts is not None:
            nodes, edges = (self.regrouped(part, selected, inner) for part in value.parts)
            return Value("path", column(value.sql), parts=(nodes, edges))
        if value.kind == "list":
            tagged = column(values.to_any(value))
            return Value("list", values.items_of(tagged), item=value.item)
        if value.kind == "boolean":
            truth = sql.function("bool_and", value.sql)
            name = self.plan.mint("x")
            selected.append(sql.alias(truth, name))
            inner.columns.append(name)
            return Value("boolean", sql.col(name))
        return replace(value, sql=column(value.sql))

    def rejoin(
        self, inner: Frame, pairs: list[tuple[Expr, Expr]], columns: Iterable[str], *, outer: bool
    ) -> None:
        """Put columns of a frame that began with ``imported`` beside the rows that it came from.

        A row comes once for each row of its key; with ``outer`` also when there is none.
        """
        added = list(columns)
        shown: list[Expr] = [sql.col(name) for name in added]
        keys: list[Expr] = []
        on: list[Expr] = []
        for here, there in pairs:
            key = self.plan.mint("k")
            keys.append(sql.alias(there, key))
            on.append(exp.EQ(this=here, expression=sql.col(key)))
        right = (
            exp.select(*keys, *shown, copy=False)
            if keys or shown
            else exp.select(sql.number(1), copy=False)
        )
        right = right.from_(inner.name, copy=False)
        query = self.select().select(*shown, copy=False).join(
            right.subquery(self.plan.mint("j"), copy=False),
            on=sql.all_of(on) if on else sql.TRUE,
            join_type="left" if outer else "inner", copy=False
        )  # fmt: skip
        self.advance(query, added)


def _fixed(expression: Expr) -> Expr:
    """An expression for a column that stays one.

    DataFusion moves filters below the steps whose columns they read, and writes the expressions of
    the columns out as often as they are named; below ``unnest`` it moves nothing.
    """
    return sql.function("unnest", sql.array([expression]))


def _stable(value: Value) -> bool:
    """Whether a value is made of plain columns and constants."""
    if value.constant is not UNSET:
        return True
    if value.entries is not None:
        return all(_stable(each) for each in value.entries.values())
    if value.items is not None:
        return all(_stable(each) for each in value.items)
    if value.fields is not None and value.kind in ("node", "edge"):
        return all(isinstance(each, exp.Column) for each in value.fields.values())
    if value.parts is not None:
        return all(_stable(each) for each in value.parts)
    return isinstance(value.sql, exp.Column)


def _name(column: Expr) -> str:
    return str(cast("Any", column).name)


def columns_of(value: Value) -> list[str]:
    """The names of the columns that a value reads."""
    found: dict[str, None] = {}
    for expression in (value.sql, *(value.fields or {}).values()):
        found |= {column.name: None for column in expression.find_all(exp.Column)}
    for part in (*(value.items or ()), *(value.parts or ()), *(value.entries or {}).values()):
        found |= dict.fromkeys(columns_of(part))
    return list(found)
