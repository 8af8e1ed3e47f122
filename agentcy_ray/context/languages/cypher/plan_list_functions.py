"""Functions of lists, and of what is a list or a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlglot import Expr

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.cypher import sql, values
from agentcy_ray.context.languages.cypher.refusal import refuse
from agentcy_ray.context.languages.cypher.values import Value
from agentcy_ray.context.languages.facts import ITEM, body

LISTED = 24
"""Ranges up to this length are known item by item."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """A call with its planned arguments."""

    name: str
    given: list[Value]
    scope: Scope

    @property
    def first(self) -> Value:
        """The first argument."""
        return self.given[0]


Handler = Callable[[Arguments], Value | None]


def count_of(value: Value) -> Expr:
    """How many items a list has."""
    if value.items is not None:
        return sql.number(len(value.items))
    return sql.cast(sql.function("array_length", value.sql), "bigint")


def size(call: Arguments) -> Value | None:
    """The length of a list or a text."""
    value = call.first
    match value.kind:
        case "list":
            return values.integer(count_of(value))
        case "text":
            return values.integer(sql.cast(sql.function("character_length", value.sql), "bigint"))
        case "any":
            tagged = values.to_any(value)
            length = sql.function("array_length", values.items_of(tagged))
            chars = sql.function("character_length", body(tagged))
            return values.integer(
                sql.case((values.has_tag(tagged, "l"), sql.cast(length, "bigint")),
                         (values.has_tag(tagged, "s"), sql.cast(chars, "bigint")))
            )  # fmt: skip
        case "map" if value.entries is not None:
            return values.integer(sql.number(len(value.entries)))
        case _:
            return None


def is_empty(call: Arguments) -> Value | None:
    """Whether a list or a text has length 0."""
    length = size(call)
    return None if length is None else values.boolean(
        sql.compare("=", length.sql, sql.number(0))
    )  # fmt: skip


def head(call: Arguments) -> Value | None:
    """The first item."""
    return _nth(call.first, 0)


def last(call: Arguments) -> Value | None:
    """The last item."""
    return _nth(call.first, -1)


def _nth(value: Value, at: int) -> Value | None:
    if value.kind not in ("list", "any"):
        return None
    if value.items is not None:
        return value.items[at] if value.items else values.null()
    found = values.as_list(value)
    item = sql.function("array_element", found.sql, sql.number(1 if at == 0 else -1))
    return values.item_value(item, found.item)


def tail(call: Arguments) -> Value | None:
    """All items but the first."""
    value = call.first
    if value.kind not in ("list", "any"):
        return None
    if value.items is not None:
        return values.list_of(list(value.items[1:]))
    found = values.as_list(value)
    length = sql.cast(sql.function("array_length", found.sql), "bigint")
    rest = sql.function("array_slice", found.sql, sql.number(2), length)
    short = sql.compare("<", length, sql.number(2))
    return values.array_of(sql.case((short, sql.empty_array()), default=rest), found.item)


def reverse(call: Arguments) -> Value | None:
    """A list or a text from its end."""
    value = call.first
    if value.items is not None:
        return values.list_of(list(reversed(value.items)))
    if value.kind == "list":
        return values.array_of(sql.function("array_reverse", value.sql), value.item)
    if value.kind == "text":
        return values.text(sql.function("reverse", value.sql))
    if value.kind == "any":
        tagged = values.to_any(value)
        turned = values.array_of(sql.function("array_reverse", values.items_of(tagged)))
        text = sql.joined([sql.lit("s"), sql.function("reverse", body(tagged))])
        return Value("any", sql.case((values.has_tag(tagged, "l"), values.to_any(turned)),
                                     (values.has_tag(tagged, "s"), text)))  # fmt: skip
    return None


def range_of(call: Arguments) -> Value | None:
    """Whole numbers from a start to an end, both included."""
    if any(each.kind not in ("integer", "any") for each in call.given):
        return None
    bounds = [each.constant for each in call.given]
    if all(isinstance(each, int) for each in bounds):
        start, end = bounds[0], bounds[1]
        step = bounds[2] if len(bounds) == 3 else 1
        if step == 0:
            refuse("range", "the step of range is 0", "write another step")
        listed = range(start, end + (1 if step > 0 else -1), step)
        if len(listed) <= LISTED:
            return values.list_of([values.constant(each) for each in listed])
    steps = [values.as_integer(each) for each in call.given]
    series = sql.function("generate_series", *steps)
    flat = sql.function("array_to_string", series, sql.lit(f"{ITEM}n"))
    items = sql.function("string_to_array", sql.joined([sql.lit("n"), flat]), sql.lit(ITEM))
    none = sql.compare("=", sql.function("array_length", series), sql.number(0))
    return values.array_of(sql.case((none, sql.empty_array()), default=items), "integer")


def split(call: Arguments) -> Value | None:
    """The parts of a text between separators."""
    if call.given[1].constant == "" or any(e.kind not in ("text", "any") for e in call.given):
        return None
    text, sign = (values.as_text(each) for each in call.given)
    marked = sql.function("replace", text, sign, sql.lit(f"{ITEM}s"))
    items = sql.function("string_to_array", sql.joined([sql.lit("s"), marked]), sql.lit(ITEM))
    return values.array_of(items, "text")
