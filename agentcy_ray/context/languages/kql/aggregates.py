"""Aggregate functions of ``summarize`` and ``make-series``.

Conditions are written inside the aggregated expression, since an engine's generic SQL may have no
``FILTER``. ``arg_max``, ``arg_min`` and ``percentiles`` give several columns; see ``expand``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlglot import exp

from agentcy_ray.context.languages.facts import ITEM, function, text_of
from agentcy_ray.context.languages.kql import tree
from agentcy_ray.context.languages.values import (
    NUMERIC,
    Value,
    case,
    cast,
    constant,
    convert,
    list_item,
    list_of,
    without_facts,
)

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.expressions import Lowering

MOST_ITEMS = 1_048_576
_PREFIX = {
    "make_list": "list", "make_set": "set", "make_list_if": "list", "make_set_if": "set",
    "take_any": "", "any": "any", "take_anyif": "",
}  # fmt: skip
_CONDITIONAL = {
    "countif": "count", "sumif": "sum", "avgif": "avg", "minif": "min", "maxif": "max",
    "dcountif": "dcount", "count_distinctif": "dcount", "stdevif": "stdev",
    "varianceif": "variance", "make_list_if": "make_list", "make_set_if": "make_set",
    "take_anyif": "take_any",
}  # fmt: skip
_STATISTICS = {
    "stdev": "stddev",
    "stdevp": "stddev_pop",
    "variance": "var_samp",
    "variancep": "var_pop",
}
WIDE = frozenset({"arg_max", "arg_min", "percentiles"})
"""Aggregates that give several columns."""
NAMES = frozenset({
    "count", "dcount", "count_distinct", "sum", "avg", "min", "max", "make_list", "make_set",
    "take_any", "any", "percentile", *_STATISTICS, *_CONDITIONAL, *WIDE,
})  # fmt: skip


def result_name(node: tree.Call, column: str | None) -> str:
    """Kusto's name of an unnamed aggregate; ``column`` is the name of its first argument."""
    if node.name == "percentile" and column and isinstance(node.arguments[1], tree.Constant):
        return f"percentile_{column}_{_shown(node.arguments[1].value)}"
    prefix = _PREFIX.get(node.name, node.name)
    if node.name in ("count", "countif") or not column:
        return f"{prefix}_"
    return f"{prefix}_{column}" if prefix else column


def _shown(number: object) -> str:
    return str(number).replace(".", "_").removesuffix("_0")


def lower(lowering: Lowering, node: tree.Call) -> Value:
    """One aggregate.

    Raises:
        QueryRejectedError: wrong arguments, or an aggregate inside another.
    """
    if node.name in WIDE:
        lowering.fail(node, f"{node.name} gives several columns and stands alone",
                      f"write summarize {node.name}(…) as an item of its own")  # fmt: skip
    inner = replace(lowering, aggregates=False, columns=lowering.inputs)
    arguments, condition = list(node.arguments), None
    name = _CONDITIONAL.get(node.name, node.name)
    if name != node.name:
        at = 0 if name == "count" else 1
        if len(arguments) <= at:
            lowering.fail(node, f"{node.name} takes a condition", f"write {node.name}(…, a == 1)")
        condition = inner.condition(arguments.pop(at))
    _check(lowering, node, name, arguments)
    if name == "count" and (not arguments or isinstance(arguments[0], tree.Star)):
        counted = exp.Literal.number(1) if condition is None else case(
            (condition, exp.Literal.number(1))
        )  # fmt: skip
        return Value(cast(function("count", counted), "long"), "long", nullable=False)
    value = inner.lower(arguments[0])
    if condition is not None:
        value = replace(value, sql=case((condition, value.copy)), nullable=True)
    return _BUILD[name](inner, node, without_facts(value), arguments)


def _check(
    lowering: Lowering, node: tree.Call, name: str, arguments: list[tree.Expression]
) -> None:
    most = {"count": 1, "percentile": 2, "make_list": 2, "make_set": 2, "dcount": 2}.get(name, 1)
    least = {"count": 0, "percentile": 2}.get(name, 1)
    if not least <= len(arguments) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        lowering.fail(node, f"{node.name} takes {wanted} arguments, not {len(arguments)}",
                      f"write {node.name} with {wanted}")  # fmt: skip


Build = Callable[["Lowering", tree.Call, Value, list[tree.Expression]], Value]


def number(lowering: Lowering, node: tree.Expression, value: Value) -> Value:
    """A number or timespan to be summed; a dynamic one is read as a number."""
    if value.kind == "dynamic":
        return convert(value, "real")
    if value.kind not in (*NUMERIC, "timespan", "null"):
        lowering.fail(node, f"a number is expected, not a {value.kind}", "write todouble(x)")
    return value


def _count(lowering: Lowering, node: tree.Call, value: Value, _: list[tree.Expression]) -> Value:
    return Value(cast(function("count", value.copy), "long"), "long", nullable=False)


def _distinct(lowering: Lowering, node: tree.Call, value: Value, _: list[tree.Expression]) -> Value:
    found = function("count", exp.Distinct(expressions=[value.copy]))
    return Value(cast(found, "long"), "long", nullable=False)


def _sum(lowering: Lowering, node: tree.Call, value: Value, _: list[tree.Expression]) -> Value:
    added = number(lowering, node, value)
    total = function("coalesce", function("sum", added.copy), exp.Literal.number(0))
    return Value(cast(total, added.kind), added.kind, nullable=False)


def _average(lowering: Lowering, node: tree.Call, value: Value, _: list[tree.Expression]) -> Value:
    added = number(lowering, node, value)
    mean = function("avg", cast(added.copy, "real"))
    if added.kind == "timespan":
        return Value(cast(mean, "timespan"), "timespan")
    return Value(mean, "real")


def _extreme(lowering: Lowering, node: tree.Call, value: Value, _: list[tree.Expression]) -> Value:
    if value.kind == "dynamic":
        value = convert(value, "real")
    name = _CONDITIONAL.get(node.name, node.name)
    return Value(function(name, value.copy), value.kind)


def _spread(lowering: Lowering, node: tree.Call, value: Value, _: list[tree.Expression]) -> Value:
    name = _STATISTICS[_CONDITIONAL.get(node.name, node.name)]
    spread = function(name, cast(number(lowering, node, value).copy, "real"))
    return Value(function("coalesce", spread, constant("real", 0.0).sql), "real", nullable=False)


def _any(lowering: Lowering, node: tree.Call, value: Value, _: list[tree.Expression]) -> Value:
    return Value(function("min", value.copy), value.kind)


def _list(lowering: Lowering, node: tree.Call, value: Value, rest: list[tree.Expression]) -> Value:
    items: exp.Expr = list_item(value)
    if _CONDITIONAL.get(node.name, node.name) == "make_set":
        distinct = function("array_agg", exp.Distinct(expressions=[items]))
        found = function("array_sort", distinct)
    elif lowering.order:
        ordered = exp.Order(this=items, expressions=[each.copy() for each in lowering.order])
        found = function("array_agg", ordered)
    else:
        found = function("array_agg", items)
    if len(rest) > 1:
        most = lowering.known(rest[1], "the largest size").constant
        if not isinstance(most, int) or not 0 < most <= MOST_ITEMS:
            lowering.fail(rest[1], f"a size is 1 to {MOST_ITEMS}")
        if value.nullable:  # an absent item takes a place in the array, and none in the list
            text = function("array_to_string", found, text_of(ITEM))
            found = function("string_to_array", text, text_of(ITEM))
        found = function("array_slice", found, 1, most)
    return Value(list_of(found), "dynamic", nullable=False)


def _percentile(
    lowering: Lowering, node: tree.Call, value: Value, rest: list[tree.Expression]
) -> Value:
    return percentile(lowering, node, value, rest[1])


def percentile(lowering: Lowering, node: tree.Call, value: Value, share: tree.Expression) -> Value:
    """An approximate percentile; moments and timespans stay what they are."""
    rank = lowering.known(share, "the percentile").constant
    if not isinstance(rank, int | float) or not 0 <= rank <= 100:
        lowering.fail(share, "a percentile is 0 to 100", "write percentile(x, 95)")
    if value.kind == "datetime":
        lowering.fail(node, "a datetime has no percentile", "use min(), max() or bin()")
    numbers = cast(number(lowering, node, value).copy, "real")
    found = function("approx_percentile_cont", numbers, exp.Literal.number(rank / 100))
    if value.kind == "timespan":
        return Value(cast(found, "timespan"), "timespan")
    return Value(found, "real")


_BUILD: dict[str, Build] = {
    "count": _count, "dcount": _distinct, "count_distinct": _distinct, "sum": _sum,
    "avg": _average, "min": _extreme, "max": _extreme, "take_any": _any, "any": _any,
    "make_list": _list, "make_set": _list, "percentile": _percentile,
    **dict.fromkeys(_STATISTICS, _spread),
}  # fmt: skip


# -- aggregates of several columns


@dataclass(frozen=True, slots=True)
class Wide:
    """Columns of one call. ``row`` is a struct to be aggregated under an alias, if they need it."""

    columns: list[tuple[str, Value]]
    row: exp.Expr | None = None


def expand(
    lowering: Lowering, item: tree.Named, columns: list[tuple[str, Value]],
    name_of: Callable[[tree.Expression], str | None], alias: str,
) -> Wide:  # fmt: skip
    """The columns of ``arg_max``, ``arg_min`` or ``percentiles``.

    Args:
        lowering: of the stage, over its input.
        item: the call.
        columns: what ``*`` stands for.
        name_of: Kusto's name of an argument.
        alias: what the aggregated struct will be called.
    """
    node = item.expression
    assert isinstance(node, tree.Call)
    inner = replace(lowering, aggregates=False, columns=lowering.inputs)
    if node.name == "percentiles":
        if len(node.arguments) < 2:
            lowering.fail(node, "percentiles takes a number and ranks", "percentiles(x, 50, 95)")
        value = inner.lower(node.arguments[0])
        base = item.name or name_of(node.arguments[0]) or ""
        return Wide([
            (f"percentile_{base}_{_shown(inner.known(rank, 'the rank').constant)}",
             percentile(inner, node, value, rank))
            for rank in node.arguments[1:]
        ])  # fmt: skip
    if not node.arguments:
        lowering.fail(node, f"{node.name} takes a column", f"write {node.name}(at, *)")
    chosen = _chosen(inner, item, node, columns, name_of)
    key = chosen[0][1]
    if key.kind == "dynamic":
        key = convert(key, "real")
    # One struct is picked, so that ties never mix the columns of two rows.
    fields: list[exp.Expr] = []
    found: list[tuple[str, Value]] = []
    for position, (name, value) in enumerate(chosen):
        fields += [exp.Literal.string(f"v{position}"), value.copy]
        held = None
        if value.facts is not None:
            fields += [exp.Literal.string(f"f{position}"), value.facts.copy()]
            held = function("get_field", exp.column(alias), f"f{position}")
        sql = function("get_field", exp.column(alias), f"v{position}")
        found.append((name, Value(sql, value.kind, True, held, value.path)))
    order = exp.Order(
        this=function("named_struct", *fields),
        expressions=[exp.Ordered(this=key.copy, desc=node.name == "arg_max", nulls_first=False)],
    )
    return Wide(found, function("first_value", order))


def _chosen(
    lowering: Lowering, item: tree.Named, node: tree.Call, columns: list[tuple[str, Value]],
    name_of: Callable[[tree.Expression], str | None],
) -> list[tuple[str, Value]]:  # fmt: skip
    """The columns that ``arg_max(key, …)`` gives, the key first."""
    key_name = item.name or name_of(node.arguments[0]) or node.name
    chosen = [(key_name, lowering.lower(node.arguments[0]))]
    for each in node.arguments[1:]:
        if isinstance(each, tree.Star):
            chosen += [(name, value) for name, value in columns if name != key_name]
        else:
            name = name_of(each) or f"{node.name}_{len(chosen)}"
            chosen.append((name, lowering.lower(each)))
    return chosen
