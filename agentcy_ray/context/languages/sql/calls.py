"""Calls: of functions, aggregates and windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlglot import exp

from agentcy_ray.context.languages import values
from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.refusals import nearest
from agentcy_ray.context.languages.sql.functions import FUNCTIONS, INSTEAD, Function
from agentcy_ray.context.languages.sql.kinds import common_kind
from agentcy_ray.context.languages.values import Kind, Value, constant, convert

if TYPE_CHECKING:
    from agentcy_ray.context.languages.sql.expressions import Lowering

_RENAMED = {"nvl": "coalesce", "ifnull": "coalesce", "mean": "avg", "position": "strpos",
            "contains": "strpos", "instr": "strpos"}  # fmt: skip
_NO_FILTER = frozenset({"array_agg", "string_agg", "first_value", "last_value", "nth_value"})


def called(lowering: Lowering, node: exp.Expr) -> Value:
    """A call with what stands around it: FILTER, WITHIN GROUP, OVER."""
    match node:
        case exp.Window():
            return _window(lowering, node)
        case exp.Filter():
            inner = cast("exp.Expr", node.this)
            condition = lowering.condition(cast("exp.Where", node.expression).this)
            if not isinstance(inner, exp.Anonymous):
                lowering.fail(
                    node, "filter stands behind an aggregate", "count(*) filter (where …)"
                )
            return _call(lowering, inner, condition=condition)
        case exp.Anonymous():
            return _call(lowering, node)
        case _:
            return lowering.fail(node, "within group is not supported",
                                 "write approx_percentile_cont(x, 0.95)")  # fmt: skip


def _call(
    lowering: Lowering, node: exp.Anonymous, *, condition: exp.Expr | None = None,
    over: bool = False,
) -> Value:  # fmt: skip
    name = str(node.this).lower()
    found = FUNCTIONS.get(name)
    if found is None:
        lowering.fail(node, f"no such function as {name}",
                      INSTEAD.get(name) or nearest(name, FUNCTIONS))  # fmt: skip
    if found.window and not over:
        lowering.fail(node, f"{name} needs a window", f"write {name}() over (order by …)")
    if condition is not None and (not found.aggregate or name in _NO_FILTER):
        lowering.fail(node, f"{name} takes no filter", "filter by where, or use case")
    nodes, distinct, order = _arguments(node)
    starred = len(nodes) == 1 and isinstance(nodes[0], exp.Star)
    if starred:
        if name != "count":
            lowering.fail(node, f"{name} takes no *", f"write {name}(x)")
        nodes = []
    if len(nodes) < found.least or (found.most is not None and len(nodes) > found.most):
        lowering.fail(node, f"{name} takes {_count(found)} arguments, not {len(nodes)}")
    if name in ("now", "current_date", "today"):
        return _now(lowering, name)
    if name.startswith("json_"):
        return _json(lowering, node, name, nodes)
    arguments = [
        _as(lowering.lower(each), found.takes[min(at, len(found.takes) - 1)])
        for at, each in enumerate(nodes)
    ]
    kind, item = _result(lowering, node, found, arguments)
    if name in ("unnest", "cardinality", "array_length"):
        arguments = [_as_list(lowering, node, arguments[0])]
        item_kind = arguments[0].item
        kind, item = (item_kind, "null") if name == "unnest" else (kind, item)
    sorting = _ordered(lowering, order)
    if distinct and sorting and (len(sorting) > 1 or sorting[0].this != arguments[0].sql):
        lowering.fail(node, "distinct items are ordered by themselves only", "order by the same")
    sql = _sql(name, found, arguments, condition, distinct, sorting)
    return Value(values.cast(sql, kind) if found.gives == "long" else sql, kind, item=item)


def _arguments(node: exp.Anonymous) -> tuple[list[exp.Expr], bool, exp.Order | None]:
    """The arguments, whether they are DISTINCT, and their ORDER BY."""
    nodes = list(node.expressions)
    order: exp.Order | None = None
    if nodes and isinstance(nodes[-1], exp.Order):
        order = nodes[-1]
        nodes[-1] = order.this
    if len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
        inner = list(nodes[0].expressions)
        if inner and isinstance(inner[-1], exp.Order):
            order = inner[-1]
            inner[-1] = order.this
        return inner, True, order
    return nodes, False, order


def _ordered(lowering: Lowering, order: exp.Order | None) -> list[exp.Ordered]:
    found: list[exp.Ordered] = []
    for each in [] if order is None else order.expressions:
        key = lowering.lower(each.this)
        found.append(exp.Ordered(
            this=convert(key, "string").sql if key.kind == "dynamic" else key.sql,
            desc=each.args.get("desc"), nulls_first=each.args.get("nulls_first"),
        ))  # fmt: skip
    return found


def _sql(
    name: str, found: Function, arguments: list[Value], condition: exp.Expr | None,
    distinct: bool, order: list[exp.Ordered],
) -> exp.Expr:  # fmt: skip
    parts: list[exp.Expr] = [each.sql for each in arguments]
    if name == "count" and not parts:
        parts = [exp.Literal.number(1)]
    if condition is not None:  # engines without FILTER
        parts[0] = values.case((condition, parts[0]))
    if name == "approx_percentile_cont":
        parts[0] = values.cast(parts[0], "real")
    if name == "string_agg":  # as an array, since not every engine orders it
        items = _array(parts[0], distinct, order)
        none = exp.EQ(this=function("count", arguments[0].copy), expression=exp.Literal.number(0))
        whole = function("array_to_string", items, arguments[1].copy)
        return values.case((none, values.null("string")), default=whole)
    if name == "array_agg":
        return _array(parts[0], distinct, order)
    if distinct:
        parts = [exp.Distinct(expressions=parts)]
    if order:
        parts[-1] = exp.Order(this=parts[-1], expressions=order)
    sql = function(_RENAMED.get(name, name), *parts)
    if name == "contains":
        return exp.GT(this=sql, expression=exp.Literal.number(0))
    return sql


def _array(item: exp.Expr, distinct: bool, order: list[exp.Ordered]) -> exp.Expr:
    """``array_agg``; distinct items, ordered by themselves, are sorted afterwards."""
    if not distinct:
        item = exp.Order(this=item, expressions=order) if order else item
        return function("array_agg", item)
    items = function("array_agg", exp.Distinct(expressions=[item]))
    if not order:
        return items
    way = "DESC" if order[0].args.get("desc") else "ASC"
    return function("array_sort", items, way)


def _as(value: Value, wanted: str) -> Value:
    """A dynamic argument as what the function takes."""
    if value.kind != "dynamic" or wanted == "x":
        return value
    kinds: dict[str, Kind] = {"s": "string", "n": "real", "d": "datetime"}
    return convert(value, kinds[wanted])


def _as_list(lowering: Lowering, node: exp.Expr, value: Value) -> Value:
    if value.kind == "dynamic":  # a list among the properties, its items tagged
        empty = exp.EQ(this=value.copy, expression=exp.Literal.string("l"))
        items = values.case(
            (exp.Not(this=values.tag_is(value.sql, "l")), exp.Null()), (empty, exp.Null()),
            default=values.items_of(value.sql),
        )  # fmt: skip
        return Value(items, "list", item="dynamic")
    if value.kind != "list":
        lowering.fail(
            node, f"a list is expected, not a {value.kind}", "write string_to_array(x, ',')"
        )
    return value


def _result(
    lowering: Lowering, node: exp.Expr, found: Function, arguments: list[Value]
) -> tuple[Kind, Kind]:
    first = arguments[0] if arguments else Value(exp.Null(), "null")
    match found.gives:
        case "same":
            return first.kind, first.item
        case "common":
            return common_kind(arguments)
        case "item":
            return first.item, "null"
        case "same_list":
            return "list", first.item
        case "list":
            item = found.item if found.item != "null" else common_kind(arguments)[0]
            return "list", item
        case gives:
            return cast("Kind", gives), "null"


def _now(lowering: Lowering, name: str) -> Value:
    moment = constant("datetime", lowering.now)
    if name == "now":
        return moment
    return Value(values.cast(moment.sql, "date"), "date")


def _json(lowering: Lowering, node: exp.Anonymous, name: str, nodes: list[exp.Expr]) -> Value:
    subject = lowering.lower(nodes[0])
    keys: list[str | int] = []
    for each in nodes[1:]:
        key = lowering.lower(each)
        if not key.is_constant or not isinstance(key.constant, str | int):
            lowering.fail(each, "a key is a literal", "write json_get_str(props, 'a', 'b')")
        keys.append(key.constant)
    found = lowering.path(node, subject, keys)
    if name == "json_contains":
        return Value(exp.Not(this=exp.Is(this=found.sql, expression=exp.Null())), "bool")
    kinds: dict[str, Kind] = {
        "json_get": "dynamic", "json_get_int": "long", "json_get_float": "real",
        "json_get_bool": "bool",
    }  # fmt: skip
    return convert(found, kinds.get(name, "string"))


def _count(found: Function) -> str:
    if found.most is None:
        return f"{found.least} or more"
    return str(found.least) if found.least == found.most else f"{found.least} to {found.most}"


# -- windows


def _window(lowering: Lowering, node: exp.Window) -> Value:
    inner = cast("exp.Expr", node.this)
    if not isinstance(inner, exp.Anonymous):
        lowering.fail(node, "over stands behind a function", "write sum(x) over (order by y)")
    if node.args.get("alias") is not None and node.alias:
        lowering.fail(node, "named windows are not supported", "write the window out behind over")
    function_ = FUNCTIONS.get(str(inner.this).lower())
    if function_ is not None and not (function_.window or function_.aggregate):
        lowering.fail(node, f"{inner.this} has no window", "leave over (…) out")
    found = _call(lowering, inner, over=True)
    by = [_key(lowering, each) for each in node.args.get("partition_by") or []]
    order = node.args.get("order")
    spec = node.args.get("spec")
    core = found.sql.this if isinstance(found.sql, exp.Cast) else found.sql
    window = exp.Window(
        this=core,
        partition_by=by,
        order=exp.Order(expressions=_ordered(lowering, order)) if order is not None else None,
        spec=_spec(lowering, spec) if spec is not None else None,
    )
    sql = values.cast(window, found.kind) if isinstance(found.sql, exp.Cast) else window
    return Value(sql, found.kind, item=found.item)


def _key(lowering: Lowering, node: exp.Expr) -> exp.Expr:
    found = lowering.lower(node)
    return convert(found, "string").sql if found.kind == "dynamic" else found.sql


def _spec(lowering: Lowering, spec: exp.WindowSpec) -> exp.WindowSpec:
    for end in ("start", "end"):
        bound = spec.args.get(end)
        if isinstance(bound, exp.Expr) and not (
            isinstance(bound, exp.Literal) and not bound.is_string
        ):  # fmt: skip
            lowering.fail(spec, "a window's bound is a number", "write rows between 1 preceding …")
    if spec.args.get("exclude"):
        lowering.fail(spec, "exclude is not supported", "leave it out")
    return spec.copy()
