"""Operators on planned values, with Cypher's nulls, types and order.

What cannot be true of two types is false for ``=`` and null for ``<``; a null operand makes null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import Expr, exp

from agentcy_ray.context.languages.cypher import sql, values
from agentcy_ray.context.languages.cypher.refusal import refuse
from agentcy_ray.context.languages.cypher.values import NUMERIC, Value
from agentcy_ray.context.languages.facts import body, tag

UNKNOWN = sql.cast(sql.NULL, "boolean")
EXACT = 2**53 - 1
"""Up to here no two whole numbers are the same double."""
_EXACTLY = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}

_RANKS = {"d": 1, "N": 2, "R": 3, "l": 4, "P": 5, "t": 6, "s": 8, "m": 8, "b": 9, "n": 10}
"""Cypher's order of types."""


class NoOrderError(Exception):
    """Values of this kind have no order here."""


def equals(left: Value, right: Value) -> Expr:
    """``left = right``, which may be null."""
    if left.is_null or right.is_null:
        return UNKNOWN
    if "any" in (left.kind, right.kind):
        return _any_equals(left, right)
    if left.kind in NUMERIC and right.kind in NUMERIC:
        return sql.compare("=", left.sql, right.sql)
    if left.kind != right.kind:
        return _never(left, right)
    match left.kind:
        case "text" | "boolean":
            return sql.compare("=", left.sql, right.sql)
        case "node" | "edge":
            return sql.compare("=", _id(left), _id(right))
        case "list" if left.items is not None and right.items is not None:
            if len(left.items) != len(right.items):
                return sql.FALSE
            return sql.all_of(equals(a, b) for a, b in zip(left.items, right.items, strict=True))
        case "map" if left.entries is not None and right.entries is not None:
            if set(left.entries) != set(right.entries):
                return sql.FALSE
            return sql.all_of(equals(left.entries[key], right.entries[key]) for key in left.entries)
        case _:
            return sql.compare("=", values.to_any(left), values.to_any(right))


def _id(value: Value) -> Expr:
    if value.fields is not None:
        return value.fields["id"]
    fields = values.of_tagged(value.sql, value.kind).fields
    assert fields is not None
    return fields["id"]


def _never(left: Value, right: Value) -> Expr:
    known = [sql.is_null(_probe(each)) for each in (left, right)]
    return sql.case((sql.any_of(known), UNKNOWN), default=sql.FALSE)


def _probe(value: Value) -> Expr:
    """Something that is null exactly when the value is."""
    return _id(value) if value.kind in ("node", "edge") else value.sql


def _any_equals(left: Value, right: Value) -> Expr:
    if left.kind != "any":
        left, right = right, left
    match right.kind:
        case "text":
            json = not isinstance(right.constant, str) or right.constant[:1] in ("{", "[")
            mine = values.to_any(left) if json else left.sql
            return sql.compare("=", mine, values.to_any(right))
        case "integer" | "float":
            same = _numbers("=", left, right)
            return sql.case(
                (values.has_tag(left.sql, "n"), same), (sql.is_null(left.sql), UNKNOWN),
                default=sql.case((sql.is_null(right.sql), UNKNOWN), default=sql.FALSE),
            )  # fmt: skip
        case "node" | "edge":
            mine = values.of_tagged(left.sql, right.kind)
            same = sql.compare("=", _id(mine), _id(right))
            mark = "N" if right.kind == "node" else "R"
            return sql.case(
                (values.has_tag(left.sql, mark), same), (sql.is_null(left.sql), UNKNOWN),
                default=sql.FALSE,
            )  # fmt: skip
        case "any":
            numbers = [values.has_tag(each.sql, "n") for each in (left, right)]
            return sql.case(
                (sql.all_of(numbers), _numbers("=", left, right)),
                default=sql.compare("=", values.to_any(left), values.to_any(right)),
            )  # fmt: skip
        case "list" if right.items is not None and not _texts(right.items):
            return _items_equal(left, right.items)
        case _:
            return sql.compare("=", values.to_any(left), values.to_any(right))


def _numbers(operator: str, left: Value, right: Value) -> Expr:
    """Two numbers compared: whole ones as such, since doubles do not tell large ones apart."""
    near = sql.compare(operator, values.as_number(left), values.as_number(right))
    constants = [each.constant for each in (left, right)]
    small = any(isinstance(each, int | float) and abs(each) <= EXACT for each in constants)
    if small or "float" in (left.kind, right.kind):
        return near
    exact = sql.compare(operator, values.as_integer(left), values.as_integer(right))
    return sql.function("coalesce", exact, near)


def _texts(items: Sequence[Value]) -> bool:
    """Whether items are texts that are known, so that their list is one known text."""
    return all(isinstance(each.constant, str) for each in items)


def _items_equal(left: Value, items: Sequence[Value]) -> Expr:
    """A value whose type only the rows tell, compared with a list item by item."""
    found = values.as_list(left)
    length = sql.cast(sql.function("array_length", found.sql), "bigint")
    fits = sql.compare("=", length, sql.number(len(items)))
    same = [
        equals(values.item_value(sql.function("array_element", found.sql, at)), each)
        for at, each in enumerate(items, 1)
    ]
    return sql.case((fits, sql.all_of(same)), (sql.is_null(left.sql), UNKNOWN), default=sql.FALSE)


def differs(left: Value, right: Value) -> Expr:
    """``left <> right``."""
    return sql.negate(equals(left, right))


def ordered(operator: str, left: Value, right: Value) -> Expr:
    """``<``, ``<=``, ``>``, ``>=``: null for values that have no order among each other.

    Raises:
        NoOrderError: lists of unknown length.
    """
    if left.is_null or right.is_null:
        return UNKNOWN
    kinds = {left.kind, right.kind}
    if kinds <= set(NUMERIC) or kinds == {"text"} or kinds == {"boolean"}:
        return sql.compare(operator, left.sql, right.sql)
    if kinds == {"list"}:
        if left.items is None or right.items is None:
            raise NoOrderError
        return _lists_ordered(operator, left.items, right.items)
    if "any" not in kinds:
        return UNKNOWN
    other = right if left.kind == "any" else left
    if other.kind in NUMERIC:
        return _numbers(operator, left, right)
    if other.kind == "text":
        return sql.compare(operator, values.as_text(left), values.as_text(right))
    if other.kind == "boolean":
        return sql.compare(operator, values.as_boolean(left), values.as_boolean(right))
    if other.kind != "any":
        return UNKNOWN
    left, right = (Value("any", values.to_any(each)) for each in (left, right))
    both = {mark: sql.all_of(values.has_tag(each.sql, mark) for each in (left, right))
            for mark in "nsb"}  # fmt: skip
    return sql.case(
        (both["n"], _numbers(operator, left, right)),
        (both["s"], sql.compare(operator, values.as_text(left), values.as_text(right))),
        (both["b"], sql.compare(operator, values.as_boolean(left), values.as_boolean(right))),
    )


def _lists_ordered(operator: str, left: Sequence[Value], right: Sequence[Value]) -> Expr:
    """By the first items that differ, then by length."""
    if not left or not right:
        return sql.compare(operator, sql.number(len(left)), sql.number(len(right)))
    first = ordered(operator[0], left[0], right[0])
    rest = _lists_ordered(operator, left[1:], right[1:])
    return sql.any_of([first, sql.all_of([equals(left[0], right[0]), rest])])


def sort_keys(value: Value) -> list[Expr]:
    """Columns that sort as Cypher sorts the value, ascending, nulls last.

    Raises:
        NoOrderError: a list of unknown length.
    """
    match value.kind:
        case "text" | "integer" | "float" | "boolean" | "timestamp":
            return [value.sql]
        case "node" | "edge":
            return [_id(value)]
        case "list":
            if value.items is None:
                raise NoOrderError
            return [key for item in value.items for key in sort_keys(item)]
        case "any":
            marks: dict[int, list[str]] = {}
            for mark, rank in _RANKS.items():
                marks.setdefault(rank, []).append(mark)
            rank = sql.case(
                *(
                    (values.has_tag(value.sql, *some), sql.number(rank))
                    for rank, some in marks.items()
                )
            )
            return [rank, values.as_number(value), values.alike(values.to_any(value))]
        case _:
            return [values.to_any(value)]


def is_in(needle: Value, haystack: Value) -> Expr:
    """``needle IN haystack``."""
    if haystack.is_null:
        return UNKNOWN
    if haystack.items is not None:
        found = haystack.items
        if not found:
            return sql.FALSE
        texts = [each.constant for each in found]
        if all(isinstance(each, str) for each in texts) and needle.kind == "text":
            return exp.Paren(this=exp.In(this=needle.sql, expressions=[each.sql for each in found]))
        if needle.kind == "any" and all(
            isinstance(each, str) and each[:1] not in ("{", "[") for each in texts
        ):
            options = [sql.lit(f"s{each}") for each in texts]
            return exp.Paren(this=exp.In(this=needle.sql, expressions=options))
        return sql.any_of(equals(needle, each) for each in found)
    items = values.as_list(haystack).sql
    length = sql.function("array_length", items)
    held = sql.any_of(sql.function("array_has", items, each) for each in _as_items(needle))
    gaps = sql.function("array_has", items, "z")
    return sql.case(
        (sql.is_null(items), UNKNOWN),
        (sql.compare("=", length, sql.number(0)), sql.FALSE),
        (sql.is_null(_probe(needle)), UNKNOWN),
        (held, sql.TRUE),
        (gaps, UNKNOWN),
        default=sql.FALSE,
    )


def _as_items(needle: Value) -> list[Expr]:
    """How a value may stand in a list: 1 as 1 and as 1.0."""
    item = values.escaped(needle)
    if needle.kind not in ("any", *NUMERIC):
        return [item]
    whole = values.alike(item)
    broken = sql.joined([whole, sql.lit(".0")])
    if needle.kind == "any":
        broken = sql.case((values.has_tag(whole, "n"), broken), default=whole)
    return [whole, broken]


def text_test(operator: str, left: Value, right: Value) -> Expr:
    """``STARTS WITH``, ``ENDS WITH``, ``CONTAINS`` and ``=~``; null for what is no text."""
    a, b = values.as_text(left), values.as_text(right)
    match operator:
        case "STARTS WITH":
            return sql.function("starts_with", a, b)
        case "ENDS WITH":
            return sql.function("ends_with", a, b)
        case "CONTAINS":
            return sql.compare(">", sql.function("strpos", a, b), sql.number(0))
        case _:
            whole = sql.joined([sql.lit("^(?:"), b, sql.lit(")$")])
            return sql.function("regexp_like", a, whole)


# -- arithmetic -------------------------------------------------------------------------------


def readable(value: Value) -> Expr:
    """A scalar as people read it, for joining texts."""
    if value.kind == "any":
        return body(values.to_any(value))
    return value.sql if value.kind == "text" else sql.cast(value.sql, "text")


def plus(left: Value, right: Value) -> Value:
    """Sum of numbers, or texts joined, or lists joined."""
    if left.is_null or right.is_null:
        return values.null()
    kinds = {left.kind, right.kind}
    if "list" in kinds:
        return _joined_lists(left, right)
    if kinds <= set(NUMERIC):
        return arithmetic("+", left, right)
    if isinstance(left.constant, str) and isinstance(right.constant, str):
        return values.constant(left.constant + right.constant)
    if "text" in kinds and "any" not in kinds:
        return values.text(sql.joined([readable(left), readable(right)]))
    for each in kinds & {"node", "edge", "path", "map"}:
        refuse("+", f"+ adds numbers, texts and lists, not a {each}", "add a property of it")
    a, b = values.to_any(left), values.to_any(right)
    numbers = sql.all_of(values.has_tag(each, "n") for each in (a, b))
    branches: list[tuple[Expr, Expr]] = []
    if not kinds & {"text", "boolean"}:
        branches.append((numbers, values.to_any(arithmetic("+", left, right))))
    lists = sql.any_of(values.has_tag(each, "l") for each in (a, b))
    branches.append((lists, values.to_any(_joined_lists(left, right))))
    text = sql.joined([sql.lit("s"), body(a), body(b)])
    return Value("any", sql.case(*branches, default=text))


def _joined_lists(left: Value, right: Value) -> Value:
    if left.items is not None and right.items is not None:
        return values.list_of([*left.items, *right.items])
    item = left.item if left.kind == right.kind == "list" and left.item == right.item else "any"
    arrays = [as_array(each) for each in (left, right)]
    both = sql.all_of(sql.is_null(each, negated=True) for each in arrays)
    return values.array_of(sql.case((both, sql.function("array_concat", *arrays))), item)


def as_array(value: Value) -> Expr:
    """A list as its array, anything else as an array of itself, null as null."""
    if value.kind == "list":
        return value.sql
    single = sql.function("make_array", values.escaped(value))
    if value.constant is not values.UNSET:
        return single
    if value.kind != "any":
        return sql.case((sql.is_null(_probe(value), negated=True), single))
    tagged = values.to_any(value)
    return sql.case((sql.compare("=", tag(tagged), sql.lit("l")), values.items_of(tagged)),
                    (sql.is_null(tagged, negated=True), single))  # fmt: skip


def arithmetic(operator: str, left: Value, right: Value) -> Value:
    """``- * / % ^`` and ``+`` of numbers; whole numbers stay whole."""
    if left.is_null or right.is_null:
        return values.null()
    for each in (left, right):
        if each.kind not in (*NUMERIC, "any"):
            refuse(operator, f"{operator} takes numbers, not a {each.kind}",
                   "convert it by toInteger or toFloat")  # fmt: skip
    if operator == "^":
        return Value("float", sql.function("power", values.as_number(left),
                                           values.as_number(right)))  # fmt: skip
    kinds = {left.kind, right.kind}
    if kinds == {"integer"}:
        known = _known(operator, left.constant, right.constant)
        return known or Value("integer", sql.binary(operator, left.sql, right.sql))
    broken = sql.binary(operator, values.as_number(left), values.as_number(right))
    if "any" not in kinds or "float" in kinds:
        return Value("float", broken)
    a, b = values.as_integer(left), values.as_integer(right)
    whole = sql.all_of(sql.is_null(each, negated=True) for each in (a, b))
    return Value("any", sql.joined([
        sql.lit("n"),
        sql.case((whole, sql.cast(sql.binary(operator, a, b), "text")),
                 default=sql.cast(broken, "text")),
    ]))  # fmt: skip


def _known(operator: str, left: Any, right: Any) -> Value | None:
    """The result for two whole numbers that are known."""
    if operator not in _EXACTLY or not (isinstance(left, int) and isinstance(right, int)):
        return None
    result = _EXACTLY[operator](left, right)
    if not -(2**63) <= result < 2**63:
        refuse(operator, "the result does not fit into 64 bits", "write a number as 1.0")
    return values.constant(result)


def minus(value: Value) -> Value:
    """``-value``."""
    if isinstance(value.constant, (int, float)) and not isinstance(value.constant, bool):
        return values.constant(-value.constant)
    return arithmetic("-", values.constant(0), value)
