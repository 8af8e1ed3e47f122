"""``+ - * / %`` over numbers, moments and timespans.

Dividing by zero gives null, and ``%`` is never below zero, whatever the signs, as in Kusto.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.kql import literals
from agentcy_ray.context.languages.kql.comparisons import Fail
from agentcy_ray.context.languages.values import (
    NANOSECONDS,
    NUMERIC,
    Kind,
    Value,
    cast,
    constant,
    convert,
    nanos,
)

_SQL: dict[str, type[exp.Binary]] = {
    "+": exp.Add, "-": exp.Sub, "*": exp.Mul, "/": exp.Div, "%": exp.Mod,
}  # fmt: skip
OPERATORS = frozenset(_SQL)

# (operator, left, right) over moments and timespans -> the result's type
_TIMES: dict[tuple[str, Kind, Kind], Kind] = {
    ("+", "datetime", "timespan"): "datetime",
    ("+", "timespan", "datetime"): "datetime",
    ("-", "datetime", "timespan"): "datetime",
    ("-", "datetime", "datetime"): "timespan",
    ("+", "timespan", "timespan"): "timespan",
    ("-", "timespan", "timespan"): "timespan",
    ("*", "timespan", "long"): "timespan",
    ("*", "timespan", "real"): "timespan",
    ("*", "long", "timespan"): "timespan",
    ("*", "real", "timespan"): "timespan",
    ("/", "timespan", "long"): "timespan",
    ("/", "timespan", "real"): "timespan",
    ("/", "timespan", "timespan"): "real",
    ("%", "timespan", "timespan"): "timespan",
}


def combine(operator: str, left: Value, right: Value, fail: Fail) -> Value:
    """``left operator right``.

    Raises:
        QueryRejectedError: through ``fail``, for types that have no such operation.
    """
    left, right = _number(left), _number(right)
    if "null" in (left.kind, right.kind):
        return constant("real" if left.kind == right.kind else _other(left, right), None)
    if {left.kind, right.kind} <= NUMERIC:
        kind: Kind = "long" if left.kind == right.kind == "long" else "real"
    else:
        found = _TIMES.get((operator, left.kind, right.kind))
        if found is None:
            fail(f"{operator} is not defined between a {left.kind} and a {right.kind}",
                 _advice(operator, left.kind, right.kind))  # fmt: skip
        kind = found
    if left.is_constant and right.is_constant and (
        (known := _known(operator, kind, left.constant, right.constant)) is not None
    ):  # fmt: skip
        return constant(kind, known)
    return Value(_sql(operator, kind, left, right), kind, left.nullable or right.nullable or (
        operator in "/%"
    ))  # fmt: skip


def negate(value: Value, fail: Fail) -> Value:
    """``-value``."""
    value = _number(value)
    if value.kind not in ("long", "real", "timespan"):
        fail(f"a {value.kind} has no negative", "write -todouble(x)")
    if value.is_constant and value.constant is not None:
        return constant(value.kind, -value.constant)
    return Value(exp.Paren(this=exp.Neg(this=value.copy)), value.kind, value.nullable)


def _other(left: Value, right: Value) -> Kind:
    return right.kind if left.kind == "null" else left.kind


def _number(value: Value) -> Value:
    return convert(value, "real") if value.kind == "dynamic" else value


def _known(operator: str, kind: Kind, left: Any, right: Any) -> Any:
    """The result for two literals, None where the engine decides."""
    if left is None or right is None or (operator in "/%" and right == 0):
        return None
    match operator:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case "*":
            result = left * right
        case "/":
            exact = isinstance(left, int) and isinstance(right, int) and kind != "real"
            result = _truncated(left, right) if exact else left / right
        case _:
            result = left % abs(right)
    if kind == "real":
        return float(result)
    whole = round(result)
    return whole if abs(whole) <= literals.MAX_INTEGER else None


def _truncated(left: int, right: int) -> int:
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _sql(operator: str, kind: Kind, left: Value, right: Value) -> exp.Expr:
    first, second = (nanos(each) if each.kind in ("datetime", "timespan") else each.copy
                     for each in (left, right))  # fmt: skip
    if kind == "real":
        first = cast(first, "real") if left.kind != "real" else first
    if operator in "/%" and not (right.is_constant and right.constant):
        second = function("nullif", second, exp.Literal.number(0))
    result: exp.Expr = exp.Paren(this=_SQL[operator](this=first, expression=second))
    if operator == "%":  # the engine's has the sign of its left side
        width = function("abs", second.copy())
        above = exp.Paren(this=exp.Add(this=result, expression=width))
        result = exp.Paren(this=exp.Mod(this=above, expression=width.copy()))
    if kind == "timespan" and "real" in (left.kind, right.kind):
        result = cast(result, "long")
    return function("arrow_cast", result, NANOSECONDS) if kind == "datetime" else result


def _advice(operator: str, left: Kind, right: Kind) -> str:
    if "string" in (left, right):
        return "use strcat(a, b)" if operator == "+" else "write todouble(x)"
    if "datetime" in (left, right):
        return "add or subtract a timespan such as 1h"
    return "convert one side, for example by todouble(x)"
