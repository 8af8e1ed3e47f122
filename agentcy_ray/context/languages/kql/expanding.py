"""``mv-expand``: a row for each item of a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.frames import Frame, selected
from agentcy_ray.context.languages.kql import tree
from agentcy_ray.context.languages.kql.stages import automatic_name, take
from agentcy_ray.context.languages.refusals import nearest
from agentcy_ray.context.languages.values import (
    KINDS,
    Value,
    case,
    convert,
    item,
    items_of,
    tag_is,
    without_facts,
)

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.pipelines import Pipelines


def expand(pipes: Pipelines, frame: Frame, stage: tree.Expand) -> Frame:
    """A row for each item, several lists side by side; an absent value keeps its row, an empty
    list loses it, as in Kusto.
    """  # fmt: skip
    lowering = pipes.lowering(frame)
    expanded: dict[str, tuple[Value, str | None]] = {}
    for each in stage.items:
        value = lowering.lower(each.item.expression)
        if value.kind != "dynamic":
            lowering.fail(each.item.expression, f"a {value.kind} is not a list",
                          "expand a dynamic value such as props.tags or split(x, ',')")  # fmt: skip
        if each.to is not None and each.to not in KINDS:
            lowering.fail(each.item.expression, f"{each.to} is not a type",
                          nearest(each.to, KINDS) or "use string")  # fmt: skip
        name = (
            each.item.name or automatic_name(each.item.expression) or f"Column{len(expanded) + 1}"
        )
        expanded[name] = (value, each.to)
    columns = {name: value for name, value in frame.values() if name not in expanded}
    extra: list[exp.Expr] = []
    for name, (value, _) in expanded.items():
        extra.append(exp.alias_(function("unnest", _items(value.sql)), name, quoted=True))
    lists = list(expanded.values())
    if stage.index_name:
        # Numbered in the same unnesting: each list of it is as long as the longest.
        sizes = [function("cardinality", _items(value.sql)) for value, _ in lists]
        longest = function("greatest", *sizes) if len(sizes) > 1 else sizes[0]
        size = exp.Cast(this=longest, to=exp.DataType.build("bigint"))
        numbers = function("unnest", function("range", 0, size))
        extra.append(exp.alias_(numbers, stage.index_name, quoted=True))
    kept = [column(key.name) for key in frame.order]
    rows = exp.select(*selected(list(columns.items())), *kept, *extra).from_(frame.relation)
    inner = pipes.plan.stage(rows, list(columns.items()), frame.order)
    shown = list(inner.values())
    for name, (_, to) in expanded.items():
        found = Value(item(column(name)), "dynamic")
        shown.append((name, convert(found, KINDS[to]) if to else found))
    if stage.index_name:
        shown.append((stage.index_name, Value(column(stage.index_name), "long")))
    shown = _in_place(shown, frame, expanded)
    # The engines differ on an empty list: none or one empty item. Items are never empty.
    gaps = [
        exp.Paren(this=exp.NullSafeNEQ(this=column(name), expression=exp.Literal.string("")))
        for name in expanded
    ]
    result = pipes.plan.select(inner, shown, where=exp.Paren(this=exp.or_(*gaps)))
    if stage.limit is not None:
        return take(pipes, result, tree.Take(stage.at, stage.end, stage.limit))
    return result


def _items(sql: exp.Expr) -> exp.Expr:
    """An SQL array of tagged items: one null for an absent value, the value itself if no list."""
    nothing = exp.Is(this=sql.copy(), expression=exp.Null())
    absent = function("make_array", exp.Cast(this=exp.Null(), to=exp.DataType.build("varchar")))
    whole = function("make_array", sql.copy())
    return case((nothing, absent), (tag_is(sql, "l"), items_of(sql)), default=whole)


def _in_place(
    shown: list[tuple[str, Value]], frame: Frame, expanded: dict[str, tuple[Value, str | None]]
) -> list[tuple[str, Value]]:
    """Expanded columns stay where they were; new ones come last."""
    values = dict(shown)
    names = [each.name for each in frame.fields]
    order = [*names, *(name for name in values if name not in names)]
    return [
        (name, without_facts(values[name]) if name in expanded else values[name])
        for name in order
        if name in values
    ]
