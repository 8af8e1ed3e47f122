"""Conversions between texts, numbers and booleans."""

from __future__ import annotations

from sqlglot import Expr

from agentcy_ray.context.languages.cypher import operators, sql, values
from agentcy_ray.context.languages.cypher.plan_list_functions import Arguments, Handler
from agentcy_ray.context.languages.cypher.values import NUMERIC, Value
from agentcy_ray.context.languages.facts import body

BLANK = sql.lit(" \t\n\v\f\r")
"""What is cut off by ``trim``, and around numbers."""


def to_string(call: Arguments) -> Value | None:
    """A scalar as people read it."""
    if call.first.kind not in ("any", *values.SCALARS):
        return None
    return values.text(operators.readable(call.first))


def _from_text_to_number(text: Expr) -> Expr:
    return sql.cast(sql.function("btrim", text, BLANK), "double", strict=False)


def to_float(call: Arguments) -> Value | None:
    """A number, or a text that is one; null for other texts."""
    value = call.first
    if value.kind in NUMERIC:
        return Value("float", values.as_number(value))
    if value.kind == "text":
        return Value("float", _from_text_to_number(value.sql))
    if value.kind == "any":
        read = sql.case(
            (values.has_tag(value.sql, "n"), values.as_number(value)),
            (values.has_tag(value.sql, "s"), _from_text_to_number(body(value.sql))),
        )
        return Value("float", read)
    return None


def to_integer(call: Arguments) -> Value | None:
    """A whole number, cut where it is broken; null for texts that are no number."""
    value = call.first
    if value.kind == "integer":
        return value
    if value.kind == "boolean":
        return values.integer(sql.cast(value.sql, "bigint"))
    number = to_float(call)
    if number is None:
        return None
    exact = values.as_integer(value)
    if value.kind == "text":
        exact = sql.cast(sql.function("btrim", value.sql, BLANK), "bigint", strict=False)
    cut = sql.cast(sql.function("trunc", number.sql), "bigint", strict=False)
    return values.integer(sql.function("coalesce", exact, cut))


def to_boolean(call: Arguments) -> Value | None:
    """``true`` and ``false`` as texts, and whole numbers but 0; null for other texts."""
    value = call.first
    if value.kind == "boolean":
        return value
    if value.kind not in ("text", "integer", "any"):
        return None
    word = sql.function("lower", operators.readable(value))
    told = sql.case((sql.compare("=", word, sql.lit("true")), sql.TRUE),
                    (sql.compare("=", word, sql.lit("false")), sql.FALSE))  # fmt: skip
    if value.kind == "text":
        return values.boolean(told)
    not_zero = sql.compare("<>", values.as_integer(value), sql.number(0))
    if value.kind == "integer":
        return values.boolean(not_zero)
    return values.boolean(sql.case((values.has_tag(value.sql, "n"), not_zero), default=told))


def or_null(convert: Handler) -> Handler:
    """Null in place of what cannot be converted."""
    return lambda call: convert(call) or values.null()


def each_of(convert: Handler) -> Handler:
    """A conversion of the items of a list."""

    def plan(call: Arguments) -> Value | None:
        if call.first.items is None:
            return None
        found = [convert(Arguments(call.name, [each], call.scope)) for each in call.first.items]
        known = [each for each in found if each is not None]
        return values.list_of(known) if len(known) == len(found) else None

    return plan
