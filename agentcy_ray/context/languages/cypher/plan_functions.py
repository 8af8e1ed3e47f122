"""Scalar and list functions in SQL.

A function that is missing here is refused, and so are arguments for which a handler gives None:
nothing is guessed.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import date

from sqlglot import Expr

from agentcy_ray.context.languages.cypher import operators, sql, values
from agentcy_ray.context.languages.cypher.plan_conversions import (
    BLANK,
    each_of,
    or_null,
    to_boolean,
    to_float,
    to_integer,
    to_string,
)
from agentcy_ray.context.languages.cypher.plan_list_functions import (
    Arguments,
    Handler,
    count_of,
    head,
    is_empty,
    last,
    range_of,
    reverse,
    size,
    split,
    tail,
)
from agentcy_ray.context.languages.cypher.plan_maps import keys_of, properties_of
from agentcy_ray.context.languages.cypher.plan_properties import labels_of
from agentcy_ray.context.languages.cypher.refusal import refuse
from agentcy_ray.context.languages.cypher.values import NUMERIC, Value

_TEXTS, _NUMBERS = ("text", "any"), (*NUMERIC, "any")
"""What may be a text, a number."""


@dataclass(frozen=True, slots=True)
class Function:
    """How a function is planned, how many arguments it takes, what to write where it cannot."""

    plan: Handler
    arity: tuple[int, int]
    instead: str = "convert the argument first, such as by toString or toInteger"


def _numbers(name: str) -> Handler:
    """A function of one double."""

    def plan(call: Arguments) -> Value | None:
        if call.first.kind not in _NUMBERS:
            return None
        return Value("float", sql.function(name, values.as_number(call.first)))

    return plan


def _texts(name: str, *more: Expr) -> Handler:
    """A function of one text."""

    def plan(call: Arguments) -> Value | None:
        if call.first.kind not in _TEXTS:
            return None
        return values.text(sql.function(name, values.as_text(call.first), *more))

    return plan


# -- any value --------------------------------------------------------------------------------


def _coalesce(call: Arguments) -> Value:
    kind = values.common(call.given)
    if kind in ("map", "path"):
        kind = "any"
    shaped = [values.as_kind(each, kind) for each in call.given]
    first = sql.function("coalesce", *(each.sql for each in shaped))
    if kind in ("node", "edge"):
        return values.of_tagged(first, kind)
    return Value(kind, first, item=call.first.item if kind == "list" else "any")


def _null_if(call: Arguments) -> Value:
    left, right = call.given
    same = operators.equals(left, right)
    value = values.as_kind(left, left.kind)
    nothing = values.as_kind(values.null(), left.kind)
    return Value(left.kind, sql.case((same, nothing.sql), default=value.sql))


def _timestamp(call: Arguments) -> Value:
    del call
    return values.constant(time.time_ns() // 1_000_000)


def _date(call: Arguments) -> Value | None:
    """A day given as ISO text. It stays the text that callers get; days sort and compare as it."""
    text = call.first.constant
    if not isinstance(text, str):
        return None
    try:
        return values.constant(date.fromisoformat(text).isoformat())
    except ValueError:
        refuse("date", f"{text!r} is no date", "write date('2026-01-31')")


# -- graph ------------------------------------------------------------------------------------


def _type(call: Arguments) -> Value | None:
    edge = _as_entity(call.first, "edge")
    return None if edge is None else values.text(edge["type"])


def _as_entity(value: Value, kind: values.Kind) -> values.Mapping[str, Expr] | None:
    if value.kind == kind:
        return value.fields
    if value.kind == "any":
        return values.of_tagged(value.sql, kind).fields
    return None


def _labels(call: Arguments) -> Value | None:
    fields = _as_entity(call.first, "node")
    return None if fields is None else labels_of(values.entity("node", fields))


def _keys(call: Arguments) -> Value | None:
    value = call.first
    if value.entries is not None:
        return values.list_of([values.constant(key) for key in value.entries])
    return keys_of(value) if value.kind in ("node", "edge", "map") else None


def _properties(call: Arguments) -> Value | None:
    value = call.first
    if value.is_null or value.kind == "map":
        return value
    return properties_of(value) if value.kind in ("node", "edge") else None


def _nodes(call: Arguments) -> Value | None:
    parts = call.first.parts
    return None if parts is None else parts[0]


def _relationships(call: Arguments) -> Value | None:
    parts = call.first.parts
    return None if parts is None else parts[1]


def _length(call: Arguments) -> Value | None:
    value = call.first
    if value.parts is not None:
        there = sql.is_null(value.sql, negated=True)
        return values.integer(sql.case((there, count_of(value.parts[1]))))
    return size(call)


# -- texts and numbers ------------------------------------------------------------------------


def _counts(call: Arguments) -> bool:
    """Whether a call has a text, then numbers that count its characters."""
    text, *counts = call.given
    return text.kind in _TEXTS and all(
        each.kind in _NUMBERS and not (isinstance(each.constant, int) and each.constant < 0)
        for each in counts
    )


def _substring(call: Arguments) -> Value | None:
    if not _counts(call):
        return None
    start = sql.binary("+", values.as_integer(call.given[1]), sql.number(1))
    rest = [values.as_integer(each) for each in call.given[2:]]
    return values.text(sql.function("substr", values.as_text(call.first), start, *rest))


def _left(call: Arguments) -> Value | None:
    if not _counts(call):
        return None
    count = values.as_integer(call.given[1])
    return values.text(sql.function("substr", values.as_text(call.first), sql.number(1), count))


def _right(call: Arguments) -> Value | None:
    if not _counts(call):
        return None
    count = values.as_integer(call.given[1])
    return values.text(sql.function("right", values.as_text(call.first), count))


def _replace(call: Arguments) -> Value | None:
    if call.given[1].constant == "" or any(each.kind not in _TEXTS for each in call.given):
        return None
    return values.text(sql.function("replace", *(values.as_text(each) for each in call.given)))


def _same_number(name: str) -> Handler:
    """A function of one number that keeps whole numbers whole."""

    def plan(call: Arguments) -> Value | None:
        value = call.first
        if value.kind not in _NUMBERS:
            return None
        if value.kind == "integer":
            return values.integer(sql.cast(sql.function(name, value.sql), "bigint"))
        broken = sql.function(name, values.as_number(value))
        if value.kind != "any":
            return Value("float", broken)
        whole = values.as_integer(value)
        exact = sql.cast(sql.function(name, whole), "bigint")
        shown = sql.case((sql.is_null(whole, negated=True), sql.cast(exact, "text")),
                         default=sql.cast(broken, "text"))  # fmt: skip
        return Value("any", sql.joined([sql.lit("n"), shown]))

    return plan


def _sign(call: Arguments) -> Value | None:
    if call.first.kind not in _NUMBERS:
        return None
    return values.integer(sql.cast(sql.function("signum", values.as_number(call.first)), "bigint"))


def _sqrt(call: Arguments) -> Value | None:
    if call.first.kind not in _NUMBERS:
        return None
    number = values.as_number(call.first)  # the engine fails on a negative one
    negative = sql.compare("<", number, sql.number(0.0))
    guarded = sql.case((negative, sql.cast(sql.lit("NaN"), "double")), default=number)
    return Value("float", sql.function("sqrt", guarded))


def _round(call: Arguments) -> Value | None:
    if any(each.kind not in _NUMBERS for each in call.given):
        return None
    number = values.as_number(call.first)
    if len(call.given) > 1:
        places = values.as_integer(call.given[1])
        return Value("float", sql.function("round", number, places))
    half_up = sql.function("floor", sql.binary("+", number, sql.number(0.5)))
    return Value("float", half_up)


def _atan2(call: Arguments) -> Value:
    return Value("float", sql.function("atan2", *(values.as_number(each) for each in call.given)))


def _haversin(call: Arguments) -> Value:
    cosine = sql.function("cos", values.as_number(call.first))
    return Value("float", sql.binary("/", sql.binary("-", sql.number(1.0), cosine),
                                     sql.number(2.0)))  # fmt: skip


def _constant(value: float) -> Handler:
    return lambda call: values.constant(value)


def _is_nan(call: Arguments) -> Value:
    return values.boolean(sql.function("isnan", values.as_number(call.first)))


_ONE, _TWO = (1, 1), (2, 2)
_PART = "give a text, and whole numbers from 0 on"
_SEARCHED = "give a text of at least one character to look for"
_PATHS = "name the path in MATCH: MATCH p = (a)-[…]->(b)"

FUNCTIONS: dict[str, Function] = {
    "coalesce": Function(_coalesce, (1, 64)),
    "nullIf": Function(_null_if, _TWO),
    "toString": Function(to_string, _ONE),
    "toStringOrNull": Function(or_null(to_string), _ONE),
    "toInteger": Function(to_integer, _ONE),
    "toIntegerOrNull": Function(or_null(to_integer), _ONE),
    "toFloat": Function(to_float, _ONE),
    "toFloatOrNull": Function(or_null(to_float), _ONE),
    "toBoolean": Function(to_boolean, _ONE),
    "toBooleanOrNull": Function(or_null(to_boolean), _ONE),
    "toStringList": Function(each_of(to_string), _ONE),
    "toIntegerList": Function(each_of(to_integer), _ONE),
    "toFloatList": Function(each_of(to_float), _ONE),
    "toBooleanList": Function(each_of(to_boolean), _ONE),
    "timestamp": Function(_timestamp, (0, 0)),
    "date": Function(_date, _ONE, "write a literal, such as date('2026-01-31')"),
    "type": Function(_type, _ONE, "give a relationship"),
    "labels": Function(_labels, _ONE, "give a node"),
    "keys": Function(_keys, _ONE, "give a node, a relationship or a map"),
    "properties": Function(_properties, _ONE, "give a node, a relationship or a map"),
    "nodes": Function(_nodes, _ONE, _PATHS),
    "relationships": Function(_relationships, _ONE, _PATHS),
    "length": Function(_length, _ONE, _PATHS),
    "size": Function(size, _ONE, "give a list or a text"),
    "char_length": Function(size, _ONE, "give a text"),
    "character_length": Function(size, _ONE, "give a text"),
    "isEmpty": Function(is_empty, _ONE, "give a list or a text"),
    "head": Function(head, _ONE, "give a list"),
    "last": Function(last, _ONE, "give a list"),
    "tail": Function(tail, _ONE, "give a list"),
    "reverse": Function(reverse, _ONE, "give a list or a text"),
    "range": Function(range_of, (2, 3), "give whole numbers"),
    "split": Function(split, _TWO, _SEARCHED),
    "substring": Function(_substring, (2, 3), _PART),
    "left": Function(_left, _TWO, _PART),
    "right": Function(_right, _TWO, _PART),
    "replace": Function(_replace, (3, 3), _SEARCHED),
    "toLower": Function(_texts("lower"), _ONE),
    "lower": Function(_texts("lower"), _ONE),
    "toUpper": Function(_texts("upper"), _ONE),
    "upper": Function(_texts("upper"), _ONE),
    "trim": Function(_texts("btrim", BLANK), _ONE),
    "btrim": Function(_texts("btrim", BLANK), _ONE),
    "lTrim": Function(_texts("ltrim", BLANK), _ONE),
    "rTrim": Function(_texts("rtrim", BLANK), _ONE),
    "abs": Function(_same_number("abs"), _ONE),
    "sign": Function(_sign, _ONE),
    "ceil": Function(_numbers("ceil"), _ONE),
    "floor": Function(_numbers("floor"), _ONE),
    "round": Function(_round, (1, 2)),
    "sqrt": Function(_sqrt, _ONE),
    "exp": Function(_numbers("exp"), _ONE),
    "log": Function(_numbers("ln"), _ONE),
    "log10": Function(_numbers("log10"), _ONE),
    "sin": Function(_numbers("sin"), _ONE),
    "cos": Function(_numbers("cos"), _ONE),
    "tan": Function(_numbers("tan"), _ONE),
    "cot": Function(_numbers("cot"), _ONE),
    "asin": Function(_numbers("asin"), _ONE),
    "acos": Function(_numbers("acos"), _ONE),
    "atan": Function(_numbers("atan"), _ONE),
    "atan2": Function(_atan2, _TWO),
    "degrees": Function(_numbers("degrees"), _ONE),
    "radians": Function(_numbers("radians"), _ONE),
    "haversin": Function(_haversin, _ONE),
    "pi": Function(_constant(math.pi), (0, 0)),
    "e": Function(_constant(math.e), (0, 0)),
    "isNaN": Function(_is_nan, _ONE),
}
