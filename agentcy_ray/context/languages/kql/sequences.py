"""Functions over lists and over neighbouring rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from agentcy_ray.context.languages.facts import function, joined
from agentcy_ray.context.languages.kql import arithmetic
from agentcy_ray.context.languages.values import (
    Kind,
    Value,
    case,
    cast,
    constant,
    convert,
    items_of,
    list_item,
    list_of,
    tag_is,
    with_sql,
)

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.functions import Called

NEIGHBOURS = frozenset({"row_number", "prev", "next", "row_cumsum"})
"""Functions that look at the rows around."""

Build = Callable[["Called"], Value]

# -- lists


def _array_length(called: Called) -> Value:
    sql = _list(called, 0)
    empty = exp.EQ(this=sql.copy(), expression=exp.Literal.string("l"))
    size = cast(function("cardinality", items_of(sql)), "long")
    return Value(
        case((empty, exp.Literal.number(0)), (tag_is(sql, "l"), size)), "long"
    )  # fmt: skip


def _list(called: Called, position: int) -> exp.Expr:
    value = called.arguments[position]
    if value.kind != "dynamic":
        called.fail(f"a list is expected, not a {value.kind}", "write split(x, ',')")
    return value.copy


def _pack_array(called: Called) -> Value:
    items = [function("coalesce", list_item(each), "z") for each in called.arguments]
    return Value(list_of(function("make_array", *items)), "dynamic", False)


def _holds(called: Called) -> Value:
    item = list_item(called.arguments[1])
    found = function("array_has", items_of(_list(called, 0)), item)
    return Value(function("coalesce", found, exp.false()), "bool", False)


def _index_of_item(called: Called) -> Value:
    item = list_item(called.arguments[1])
    place = function("array_position", items_of(_list(called, 0)), item)
    at = function("coalesce", cast(place, "long"), exp.Literal.number(0))
    return Value(exp.Paren(this=exp.Sub(this=at, expression=exp.Literal.number(1))), "long", False)


def _range(called: Called) -> Value:
    start, stop = called.arguments[0], called.arguments[1]
    step = called.arguments[2] if len(called.arguments) > 2 else constant("long", 1)
    if {start.kind, stop.kind, step.kind} != {"long"}:
        called.fail("range takes whole numbers", "write range(1, 10, 2)")
    numbers = function("generate_series", start.copy, stop.copy, step.copy)
    text = function("array_to_string", numbers, joined([
        function("chr", 29), exp.Literal.string("n"),
    ]))  # fmt: skip
    return Value(joined([exp.Literal.string("ln"), text]), "dynamic", False)


# -- neighbouring rows


def _window(called: Called, inner: exp.Expr, kind: Kind) -> Value:
    order = called.lowering.order
    if order is None:
        called.fail("the rows have no order here", "write sort by <column> before it")
    ordered = exp.Order(expressions=[each.copy() for each in order])
    return Value(exp.Window(this=inner, order=ordered), kind)


def _row_number(called: Called) -> Value:
    first = called.literal(0, "the first number").constant if called.arguments else 1
    found = _window(called, function("row_number"), "long")
    number = cast(found.sql, "long")
    if first == 1:
        return with_sql(found, number)
    return arithmetic.combine(
        "+", with_sql(found, number), constant("long", first - 1), called.fail
    )


def _neighbour(name: str) -> Build:
    def build(called: Called) -> Value:
        value = called.arguments[0]
        away = called.literal(1, "the distance").constant if len(called.arguments) > 1 else 1
        found = _window(called, function(name, value.copy, exp.Literal.number(away)), value.kind)
        if len(called.arguments) < 3:
            return found
        default = convert(called.arguments[2], value.kind)
        return with_sql(found, function("coalesce", found.sql, default.copy))

    return build


def _running_sum(called: Called) -> Value:
    value = called.number(0)
    order = called.lowering.order
    if order is None:
        called.fail("the rows have no order here", "write sort by <column> before it")
    window = exp.Window(
        this=function("sum", value.copy),
        order=exp.Order(expressions=[each.copy() for each in order]),
        spec=exp.WindowSpec(kind="ROWS", start="UNBOUNDED", start_side="PRECEDING",
                            end="CURRENT ROW"),
    )  # fmt: skip
    return Value(cast(window, value.kind), value.kind)


def functions(make: Callable[..., Any]) -> dict[str, Any]:
    """The functions of this file; ``make(build, least, most)`` makes an entry."""
    return {
        "array_length": make(_array_length), "pack_array": make(_pack_array, 1, None),
        "set_has_element": make(_holds, 2, 2), "array_index_of": make(_index_of_item, 2, 2),
        "range": make(_range, 2, 3), "row_number": make(_row_number, 0, 1),
        "prev": make(_neighbour("lag"), 1, 3), "next": make(_neighbour("lead"), 1, 3),
        "row_cumsum": make(_running_sum, 1, 1),
    }  # fmt: skip
