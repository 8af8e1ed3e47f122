"""Forms of SQL with a grammar of their own: CASE, CAST, EXTRACT, INTERVAL, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlglot import exp

from agentcy_ray.context.languages import values
from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.refusals import nearest
from agentcy_ray.context.languages.sql.kinds import common_kind
from agentcy_ray.context.languages.values import Kind, Value, convert

if TYPE_CHECKING:
    from agentcy_ray.context.languages.sql.expressions import Lowering

_CASTS: dict[str, Kind] = {
    **dict.fromkeys(("VARCHAR", "TEXT", "CHAR", "NVARCHAR", "UUID"), "string"),
    **dict.fromkeys(("INT", "BIGINT", "SMALLINT", "TINYINT", "UINT", "UBIGINT"), "long"),
    **dict.fromkeys(("DOUBLE", "FLOAT", "DECIMAL"), "real"),
    "BOOLEAN": "bool", "DATE": "date",
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMPTZ", "DATETIME", "TIMESTAMPNTZ"), "datetime"),
}  # fmt: skip
_PARTS = frozenset({
    "year", "quarter", "month", "week", "day", "hour", "minute", "second", "millisecond",
    "microsecond", "dow", "doy", "epoch", "isodow",
})  # fmt: skip


def case_(lowering: Lowering, node: exp.Case) -> Value:
    """``CASE`` with or without a subject; its results take the type that holds them all."""
    subject = node.args.get("this")
    conditions: list[exp.Expr] = []
    results: list[Value] = []
    for branch in node.args.get("ifs") or []:
        if subject is None:
            conditions.append(lowering.condition(branch.this))
        else:
            left, right = lowering.aligned(lowering.lower(subject), lowering.lower(branch.this))
            conditions.append(exp.EQ(this=left.sql, expression=right.sql))
        results.append(lowering.lower(branch.args["true"]))
    default = node.args.get("default")
    if default is not None:
        results.append(lowering.lower(default))
    kind, item = common_kind(results)
    found = [convert(each, kind).sql if each.kind == "dynamic" or kind == "dynamic" else each.sql
             for each in results]  # fmt: skip
    ifs = [exp.If(this=c, true=r) for c, r in zip(conditions, found, strict=False)]
    last = found[-1] if default is not None else None
    return Value(exp.Case(ifs=ifs, default=last), kind, item=item)


def cast_(lowering: Lowering, node: exp.Cast) -> Value:
    """``CAST``, ``TRY_CAST`` and ``::``; a property becomes null where it cannot be cast."""
    to = node.to
    kind = _CASTS.get(to.this.name if hasattr(to.this, "name") else str(to.this))
    if kind is None:
        lowering.fail(node, f"{to.sql()} is not a type here",
                  "use varchar, bigint, double, boolean, date or timestamp")  # fmt: skip
    found = lowering.lower(node.this)
    if found.kind == "dynamic":
        return convert(found, kind) if kind != "date" else Value(
            values.cast(convert(found, "datetime").sql, "date", safely=True), "date"
        )  # fmt: skip
    safely = isinstance(node, exp.TryCast)
    return Value(values.cast(found.sql, kind, safely=safely), kind)


def extract_(lowering: Lowering, node: exp.Extract) -> Value:
    """``EXTRACT(part FROM time)``."""
    part = str(node.name).lower()
    if part not in _PARTS:
        lowering.fail(node, f"{part} is not a part of a time", nearest(part, _PARTS))
    found = function("date_part", part, lowering.lower(node.expression).sql)
    kind: Kind = "real" if part == "epoch" else "long"
    return Value(values.cast(found, kind), kind)


def special_(lowering: Lowering, node: exp.Expr) -> Value:
    """Functions that have a grammar of their own."""
    match node:
        case exp.Substring():
            places = [lowering.lower(each).sql for key in ("start", "length")
                      if (each := node.args.get(key)) is not None]  # fmt: skip
            return Value(function("substr", lowering.text(node.this).sql, *places), "string")
        case exp.Trim():
            side = str(node.args.get("position") or "BOTH").upper()
            name = {"BOTH": "btrim", "LEADING": "ltrim", "TRAILING": "rtrim"}[side]
            signs = [lowering.text(node.expression).sql] if node.expression else []
            return Value(function(name, lowering.text(node.this).sql, *signs), "string")
        case _:
            needle = cast("exp.Expr", node.args["substr"])
            found = function("strpos", lowering.text(node.this).sql, lowering.text(needle).sql)
            return Value(values.cast(found, "long"), "long")


def interval_(lowering: Lowering, node: exp.Interval) -> Value:
    """``INTERVAL '1 hour'``."""
    amount, unit = node.this, node.args.get("unit")
    if not isinstance(amount, exp.Literal):
        lowering.fail(node, "an interval is a literal", "write interval '1 hour'")
    written = f"{amount.this} {unit.name if unit is not None else ''}".strip().lower()
    if not all(each.isalnum() or each in " .-" for each in written):
        lowering.fail(node, "not an interval", "write interval '1 hour'")
    return Value(exp.Interval(this=exp.Literal.string(written)), "interval")


def list_(lowering: Lowering, node: exp.Expr) -> Value:
    """``ARRAY[…]`` and ``list[index]``."""
    if isinstance(node, exp.Array):
        items = [lowering.lower(each) for each in node.expressions]
        kind, _ = common_kind(items)
        return Value(function("make_array", *(each.sql for each in items)), "list", item=kind)
    found = lowering.lower(node.this)
    (index,) = node.expressions or (None,)
    if found.kind != "list" or index is None:
        lowering.fail(node, f"a {found.kind} has no items", "read props -> 'key'")
    place = lowering.lower(index)
    return Value(function("array_element", found.sql, place.sql), found.item)
