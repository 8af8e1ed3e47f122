"""``make-series``: one row for each key, with a list of values over evenly spaced points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlglot import exp

from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.frames import Frame, selected, some_row
from agentcy_ray.context.languages.kql import aggregates, tree
from agentcy_ray.context.languages.kql.stages import automatic_name, named_values
from agentcy_ray.context.languages.values import (
    NANOSECONDS,
    Kind,
    Value,
    cast,
    constant,
    convert,
    list_item,
    list_of,
    nanos,
    without_facts,
)

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.pipelines import Pipelines

MAX_POINTS = 100_000


def make_series(pipes: Pipelines, frame: Frame, stage: tree.MakeSeries) -> Frame:
    """Values counted per point and key, then laid over all points with a default."""
    lowering = pipes.lowering(frame)
    axis = lowering.lower(stage.axis)
    step = lowering.known(stage.step, "the step")
    wanted: Kind = "timespan" if axis.kind == "datetime" else "long"
    if axis.kind not in ("datetime", "long") or step.kind != wanted or step.constant <= 0:
        reason = "the axis is a datetime with a timespan as step, or whole numbers"
        lowering.fail(stage.step, reason, "write on at from ago(1d) to now() step 1h")
    keys = [(name, without_facts(value)) for name, value in named_values(lowering, stage.keys)]
    span = _span(pipes, frame, stage, axis, step)
    points = _points(pipes, stage, span, step)
    counted, values = _counted(pipes, frame, stage, axis, span, step, keys)
    if keys:
        found = exp.select(*(column(name) for name, _ in keys)).from_(counted.relation)
        places = [exp.Literal.number(at + 1) for at in range(len(keys))]
        found = found.group_by(*places).having(some_row())
    else:
        found = exp.select(exp.alias_(exp.Literal.number(1), "_"))
    groups = pipes.plan.stage(found, keys)
    return _laid(pipes, stage, (groups, points, counted), keys, values, axis, span, step)


@dataclass(frozen=True, slots=True)
class _Span:
    """First point and end as whole numbers; ``edges`` is the one-row relation that holds them
    where they come from the rows.
    """  # fmt: skip

    start: Value
    stop: Value
    edges: Frame | None = None

    def beside(self, rows: exp.Select) -> exp.Select:
        """The rows with the bounds at hand."""
        return rows if self.edges is None else rows.join(self.edges.relation, join_type="cross")


def counting(count: int) -> exp.Expr:
    """The numbers from 0 up to a count, one a row."""
    return function("unnest", function("range", 0, exp.Literal.number(count)))


def _span(
    pipes: Pipelines, frame: Frame, stage: tree.MakeSeries, axis: Value, step: Value
) -> _Span:
    lowering = pipes.lowering(frame)
    given: dict[str, Value] = {}
    for node, name in ((stage.start, "_start"), (stage.stop, "_stop")):
        if node is None:
            continue
        bound = lowering.known(node, "a bound")
        if bound.kind != axis.kind:
            lowering.fail(node, f"the axis is a {axis.kind}, this is a {bound.kind}")
        past = 1 if stage.closed and name == "_stop" else 0
        given[name] = constant("long", bound.constant + past)
    if len(given) == 2:
        return _Span(given["_start"], given["_stop"])
    width = exp.Literal.number(step.constant)
    columns: list[tuple[str, Value]] = []
    for name, edge in (("_start", "min"), ("_stop", "max")):
        number = exp.Paren(this=exp.Div(this=function(edge, nanos(axis)), expression=width.copy()))
        floored: exp.Expr = exp.Mul(this=number, expression=width.copy())
        if edge == "max":
            floored = exp.Add(this=floored, expression=width.copy())
        columns.append((name, given.get(name, Value(exp.Paren(this=floored), "long"))))
    edges = pipes.plan.stage(exp.select(*selected(columns)).from_(frame.relation), columns)
    return _Span(Value(column("_start"), "long"), Value(column("_stop"), "long"), edges)


def _points(pipes: Pipelines, stage: tree.MakeSeries, span: _Span, step: Value) -> Frame:
    """The numbers of the points."""
    if span.edges is None:
        count = max(0, -((span.start.constant - span.stop.constant) // step.constant))
        if count > MAX_POINTS:
            pipes.refuse(stage.at, "make-series", f"over {MAX_POINTS} points", "widen the step")
        rows = exp.select(exp.alias_(counting(count), "_point"))
    else:
        gap = exp.Paren(this=exp.Sub(this=span.stop.copy, expression=span.start.copy))
        rounded = exp.Add(this=gap, expression=exp.Literal.number(step.constant - 1))
        size = exp.Div(this=exp.Paren(this=rounded), expression=exp.Literal.number(step.constant))
        most = function("least", size, exp.Literal.number(MAX_POINTS))
        filled = cast(function("coalesce", most, exp.Literal.number(0)), "long")
        numbers = function("unnest", function("range", 0, filled))
        rows = exp.select(exp.alias_(numbers, "_point")).from_(span.edges.relation)
    return pipes.plan.stage(rows, [("_point", Value(exp.column("_point"), "long"))])


def _counted(
    pipes: Pipelines, frame: Frame, stage: tree.MakeSeries, axis: Value, span: _Span,
    step: Value, keys: list[tuple[str, Value]],
) -> tuple[Frame, list[tuple[str, Value, Value]]]:  # fmt: skip
    """Aggregates per key and point, and for each its name, value and default."""
    lowering = pipes.lowering(frame)
    grouped = replace(lowering, aggregates=True, columns={}, inputs=lowering.columns)
    values: list[tuple[str, Value, Value]] = []
    for each in stage.items:
        node = each.item.expression
        if not isinstance(node, tree.Call) or node.name not in aggregates.NAMES:
            grouped.fail(node, "an aggregate is expected", "write count() or avg(x)")
        value = grouped.lower(node)
        default = constant("long", 0) if each.default is None else lowering.known(
            each.default, "the default"
        )  # fmt: skip
        name = each.item.name or automatic_name(node) or f"Column{len(values) + 1}"
        values.append((name, value, convert(default, value.kind)))
    offset = exp.Paren(this=exp.Sub(this=nanos(axis), expression=span.start.copy))
    point = exp.Div(this=offset, expression=exp.Literal.number(step.constant))
    columns = [*keys, ("_point", Value(point, "long"))]
    columns += [(f"_value{at}", value) for at, (_, value, _) in enumerate(values)]
    within = exp.and_(
        exp.GTE(this=nanos(axis), expression=span.start.copy),
        exp.LT(this=nanos(axis), expression=span.stop.copy),
    )
    rows = span.beside(exp.select(*selected(columns)).from_(frame.relation)).where(within)
    rows = rows.group_by(*(exp.Literal.number(at + 1) for at in range(len(keys) + 1)))
    return pipes.plan.stage(rows, columns), values


def _laid(
    pipes: Pipelines, stage: tree.MakeSeries, relations: tuple[Frame, Frame, Frame],
    keys: list[tuple[str, Value]], values: list[tuple[str, Value, Value]], axis: Value,
    span: _Span, step: Value,
) -> Frame:  # fmt: skip
    groups, points, counted = relations
    on: list[exp.Expr] = [
        exp.EQ(this=exp.column("_point", "p"), expression=exp.column("_point", "c"))
    ]
    on += [exp.NullSafeEQ(this=column(name, "g"), expression=column(name, "c")) for name, _ in keys]
    order = [exp.Ordered(this=exp.column("_point", "p"))]

    def listed(value: Value) -> Value:
        text = function("coalesce", list_item(value), "z")
        ordered = exp.Order(this=text, expressions=[each.copy() for each in order])
        return Value(list_of(function("array_agg", ordered)), "dynamic", nullable=False)

    columns = [(name, Value(column(name, "g"), value.kind)) for name, value in keys]
    for at, (name, value, default) in enumerate(values):
        held = column(f"_value{at}", "c")
        filled = function("coalesce", held, default.copy)
        columns.append((name, listed(Value(filled, value.kind))))
    width = exp.Paren(
        this=exp.Mul(this=exp.column("_point", "p"), expression=exp.Literal.number(step.constant))
    )
    place: exp.Expr = exp.Paren(this=exp.Add(this=span.start.copy, expression=width))
    if axis.kind == "datetime":
        place = function("arrow_cast", place, NANOSECONDS)
    columns.append((stage.axis.name, listed(Value(place, axis.kind))))

    rows = exp.select(*selected(columns)).from_(exp.to_table(groups.relation, alias="g"))
    rows = rows.join(exp.to_table(points.relation, alias="p"), join_type="cross")
    rows = rows.join(exp.to_table(counted.relation, alias="c"), on=exp.and_(*on), join_type="left")
    rows = span.beside(rows)
    if keys:
        rows = rows.group_by(*(exp.Literal.number(at + 1) for at in range(len(keys))))
    return pipes.plan.stage(rows, columns)
