"""Expressions over the items of a list.

A list of known length is unrolled in place. The items of any other become rows of a frame of their
own, and what is computed over them is joined back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, cast

from sqlglot import Expr, exp

from agentcy_ray.context.languages.cypher import operators, sql, tree, values
from agentcy_ray.context.languages.cypher.frames import Frame, Plan
from agentcy_ray.context.languages.cypher.plan_properties import property_of
from agentcy_ray.context.languages.cypher.refusal import refuse
from agentcy_ray.context.languages.cypher.values import Value

INLINE = 24
"""Lists of known length up to this are unrolled in place."""


def mentioned(value: Any) -> set[str]:
    """Every name that a part of the tree uses or binds; ``*`` when it takes all that are there."""
    names: set[str] = set()
    waiting: list[Any] = [value]
    while waiting:
        each = waiting.pop()
        match each:
            case tree.Variable(name=name):
                names.add(name)
            case tree.Projection() if each.star:
                names.add("*")
            case tree.NodePattern() | tree.RelationshipPattern() | tree.Path():
                if each.variable is not None:
                    names.add(each.variable)
            case tree.CallSubquery():
                names.update(each.imports or ())
            case _:
                pass
        if isinstance(each, tuple):
            waiting += cast("tuple[Any, ...]", each)
        elif is_dataclass(each) and not isinstance(each, type):
            waiting += [getattr(each, f.name) for f in fields(each)]
    return names


def imports(value: Any, frame: Frame, *, without: tuple[str, ...] = ()) -> list[str]:
    """Variables of the frame that a part of the tree speaks of."""
    names = mentioned(value)
    return [name for name in frame.bindings if (name in names or "*" in names)
            and name not in without]  # fmt: skip


class ListPlanner(ABC):
    """Plans comprehensions, quantifiers, items and slices."""

    def __init__(self, plan: Plan, params: Mapping[str, Any]) -> None:
        self.plan = plan
        self.params = params

    @abstractmethod
    def expression(self, expression: tree.Expression, frame: Frame) -> Value:
        """Any expression."""

    @abstractmethod
    def once(self, expression: tree.Expression, frame: Frame) -> Value:
        """An expression for where it is written several times."""

    @abstractmethod
    def condition(self, expression: tree.Expression, frame: Frame) -> Expr:
        """An expression as a condition."""

    def item(self, subject: Value, index: Value) -> Value:
        """``subject[index]``: an item of a list, a property of a map or an entity."""
        if index.kind == "text" and isinstance(index.constant, str):
            return property_of(subject, index.constant, self.plan.scope)
        if index.kind == "text":
            if subject.entries is not None:
                branches = [(sql.compare("=", index.sql, sql.lit(key)), values.to_any(each))
                            for key, each in subject.entries.items()]  # fmt: skip
                return Value("any", sql.case(*branches)) if branches else values.null()
            refuse("[", "a property whose name is computed cannot be read",
                   "write the name: n.name or n['name']")  # fmt: skip
        if subject.items is not None and isinstance(index.constant, int):
            at = index.constant
            inside = -len(subject.items) <= at < len(subject.items)
            return subject.items[at] if inside else values.null()
        found = values.as_list(subject)
        place = values.as_integer(index)
        from_one = sql.case(
            (sql.compare(">=", place, sql.number(0)), sql.binary("+", place, sql.number(1))),
            default=place,
        )
        return values.item_value(sql.function("array_element", found.sql, from_one), found.item)

    def slice(self, expression: tree.Slice, frame: Frame) -> Value:
        """``subject[start..end]``."""
        subject = values.as_list(self.once(expression.subject, frame))
        length = sql.cast(sql.function("array_length", subject.sql), "bigint")

        def bound(part: tree.Expression | None, default: Expr) -> Expr:
            if part is None:
                return default
            at = values.as_integer(self.expression(part, frame))
            return sql.case(
                (sql.is_null(at), sql.cast(sql.NULL, "bigint")),
                (sql.compare("<", at, sql.number(0)),
                 sql.function("greatest", sql.binary("+", length, at), sql.number(0))),
                default=sql.function("least", at, length),
            )  # fmt: skip

        start = bound(expression.start, sql.number(0))
        end = bound(expression.end, length)
        part = sql.function("array_slice", subject.sql, sql.binary("+", start, sql.number(1)), end)
        sliced = sql.case(
            (sql.is_null(length), subject.sql),
            (sql.any_of([sql.is_null(start), sql.is_null(end)]),
             sql.function("arrow_cast", sql.NULL, "List(Utf8)")),
            (sql.compare(">=", start, end), sql.empty_array()),
            default=part,
        )  # fmt: skip
        return values.array_of(sliced, subject.item)

    @contextmanager
    def bound(self, frame: Frame, **names: Value) -> Generator[None]:
        """Variables of a comprehension, visible inside it only."""
        before = {name: frame.bindings.get(name) for name in names}
        frame.bindings.update(names)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del frame.bindings[name]
                else:
                    frame.bindings[name] = value

    def _unrolled(self, source: Value) -> tuple[Value, ...] | None:
        items = source.items
        return items if items is not None and len(items) <= INLINE else None

    def comprehension(self, each: tree.ListComprehension, frame: Frame) -> Value:
        """``[x IN list WHERE … | result]``."""
        source = self.expression(each.source, frame)
        if source.is_null:
            return values.null()
        items = self._unrolled(source)
        if items is None:
            return self._over_list(each, source, frame)
        results: list[Value] = []
        tests: list[Expr | None] = []
        for item in items:
            with self.bound(frame, **{each.variable: item}):
                tests.append(None if each.where is None else self.condition(each.where, frame))
                results.append(item if each.result is None else self.expression(each.result, frame))
        if each.where is None:
            return values.list_of(results)
        whole = values.list_of(results)
        gap = sql.lit("-")  # no item begins like this
        kept = sql.array(
            sql.case((cast("Expr", test), values.escaped(result)), default=gap)
            for test, result in zip(tests, results, strict=True)
        )
        return values.array_of(sql.function("array_remove_all", kept, gap), whole.item)

    def over(
        self,
        variable: str,
        source: Value,
        used: Any,
        frame: Frame,
        read: Callable[[Frame, Expr], dict[str, Expr]],
    ) -> dict[str, Expr]:
        """Compute something over the items of a list and join it back.

        Args:
            variable: what an item is called inside.
            source: the list.
            used: the part of the tree that is computed, for its variables.
            frame: the rows.
            read: given a frame with one row for each item and the item's position, the aggregates
                over them, by column name.

        Returns:
            The columns, null for rows with an empty list or none.
        """
        listed = values.as_list(source)
        name = self.plan.mint("_list")
        frame.bindings[name] = frame.keep({name: listed})[name]
        names = [*imports(used, frame, without=(variable, name)), name]
        inner, pairs = frame.imported(names)
        items = inner.bindings.pop(name)
        del frame.bindings[name]
        length = sql.cast(sql.function("array_length", items.sql), "bigint")
        inner.filter(sql.compare(">", length, sql.number(0)))
        at, item = self.plan.mint("x"), self.plan.mint("x")
        inner.add({
            item: sql.function("unnest", items.sql),
            at: sql.function("unnest", sql.function("generate_series", sql.number(1), length)),
        })
        inner.bindings[variable] = values.item_value(sql.col(item), listed.item)
        aggregates = read(inner, sql.col(at))
        grouped = Frame(self.plan, "", [])
        keys = [(self.plan.mint("k"), there) for _, there in pairs]
        query = inner.grouped(
            [*(sql.alias(there, key) for key, there in keys),
             *(sql.alias(e, column) for column, e in aggregates.items())],
            [there for _, there in keys],
        )  # fmt: skip
        grouped.name = self.plan.step(query)
        back: list[tuple[Expr, Expr]] = [
            (here, sql.col(key)) for (here, _), (key, _) in zip(pairs, keys, strict=True)
        ]
        frame.rejoin(grouped, back, aggregates, outer=True)
        return {column: sql.col(column) for column in aggregates}

    def _over_list(
        self, each: tree.ListComprehension, source: Value, frame: Frame
    ) -> Value:  # fmt: skip
        kinds: list[Value] = []

        def read(inner: Frame, at: Expr) -> dict[str, Expr]:
            if each.where is not None:
                inner.filter(self.condition(each.where, inner))
            item = inner.bindings[each.variable]
            result = item if each.result is None else self.expression(each.result, inner)
            kinds.append(result)
            return {self.plan.mint("x"): collected(values.escaped(result), [at])}

        listed = frame.keep({"": values.as_list(source)})[""]
        columns = self.over(each.variable, listed, (each.where, each.result), frame, read)
        gathered = next(iter(columns.values()))
        filled = sql.case(
            (sql.is_null(listed.sql, negated=True),
             sql.function("coalesce", gathered, sql.empty_array())),
        )  # fmt: skip
        return values.array_of(filled, kinds[0].kind)

    def quantifier(self, each: tree.Quantifier, frame: Frame) -> Value:
        """``all|any|none|single(x IN list WHERE …)``."""
        source = self.expression(each.source, frame)
        if source.is_null:
            return values.null()
        items = self._unrolled(source)
        if items is not None:
            tests: list[Expr] = []
            for item in items:
                with self.bound(frame, **{each.variable: item}):
                    tests.append(self.condition(each.where, frame))
            if each.kind in ("all", "any", "none"):
                whole = sql.all_of(tests) if each.kind == "all" else sql.any_of(tests)
                return values.boolean(sql.negate(whole) if each.kind == "none" else whole)
            counts = [_total(tests, truth) for truth in ("true", "null")]
            return values.boolean(_verdict(each.kind, counts[0], sql.number(0), counts[1]))

        def read(inner: Frame, at: Expr) -> dict[str, Expr]:
            del at
            test = self.condition(each.where, inner)
            held = {
                "true": test,
                "false": sql.negate(test),
                "null": sql.is_null(test),
            }
            return {
                self.plan.mint("x"): sql.function(
                    "sum", sql.case((each, sql.number(1)), default=sql.number(0))
                )
                for each in held.values()
            }

        listed = frame.keep({"": values.as_list(source)})[""]
        columns = self.over(each.variable, listed, each.where, frame, read)
        true, false, null = (
            sql.function("coalesce", column, sql.number(0)) for column in columns.values()
        )
        verdict = _verdict(each.kind, true, false, null)
        return values.boolean(sql.case((sql.is_null(listed.sql, negated=True), verdict)))

    def reduce(self, each: tree.Reduce, frame: Frame) -> Value:
        """``reduce(total = initial, x IN list | body)`` over a list of known length."""
        source = self.expression(each.source, frame)
        if source.is_null:
            return values.null()
        items = self._unrolled(source)
        if items is None:
            refuse("reduce", "reduce over a list whose length is not known cannot be planned",
                   "UNWIND the list and aggregate by sum, min, max or collect")  # fmt: skip
        total = self.expression(each.initial, frame)
        for item in items:
            with self.bound(frame, **{each.accumulator: total, each.variable: item}):
                total = self.expression(each.body, frame)
        return total


def collected(items: Expr, order: list[Expr]) -> Expr:
    """``array_agg`` in an order; null for no rows."""
    keys = [exp.Ordered(this=key, nulls_first=False) for key in order]
    return sql.function("array_agg", exp.Order(this=items, expressions=keys))


def _total(tests: list[Expr], truth: str) -> Expr:
    total: Expr = sql.number(0)
    for test in tests:
        held = sql.is_null(test) if truth == "null" else test
        total = sql.binary("+", total, sql.case((held, sql.number(1)), default=sql.number(0)))
    return total


def _verdict(kind: str, true: Expr, false: Expr, null: Expr) -> Expr:
    """The quantifier's answer from how many items passed, failed and are unknown."""
    some = {name: sql.compare(">", count, sql.number(0))
            for name, count in (("true", true), ("false", false), ("null", null))}  # fmt: skip
    unknown = (some["null"], operators.UNKNOWN)
    match kind:
        case "all":
            return sql.case((some["false"], sql.FALSE), unknown, default=sql.TRUE)
        case "any":
            return sql.case((some["true"], sql.TRUE), unknown, default=sql.FALSE)
        case "none":
            return sql.case((some["true"], sql.FALSE), unknown, default=sql.TRUE)
        case _:
            many = sql.compare(">", true, sql.number(1))
            one = sql.compare("=", true, sql.number(1))
            return sql.case((many, sql.FALSE), unknown, default=one)
