"""Functions over text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from agentcy_ray.context.languages import facts
from agentcy_ray.context.languages.facts import function, joined, text_of
from agentcy_ray.context.languages.kql.comparisons import check_pattern, concatenated, escaped
from agentcy_ray.context.languages.values import (
    KINDS,
    Value,
    case,
    cast,
    constant,
    convert,
    items_of,
)

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.functions import Called


def _applied(name: str) -> Callable[[Called], Value]:
    def build(called: Called) -> Value:
        value = called.text(0)
        return Value(function(name, value.copy), "string", value.nullable)

    return build


def _length(called: Called) -> Value:
    value = called.text(0)
    return Value(cast(function("character_length", value.copy), "long"), "long", value.nullable)


def _strcat(called: Called) -> Value:
    found = [convert(each, "string") for each in called.arguments]
    if all(each.is_constant for each in found):
        return constant("string", "".join(str(each.constant or "") for each in found))
    return Value(concatenated([each.copy for each in found]), "string", nullable=False)


def _strcat_delim(called: Called) -> Value:
    delimiter, *rest = [convert(each, "string") for each in called.arguments]
    parts: list[exp.Expr] = []
    for each in rest:
        parts += [delimiter.copy, each.copy]
    return Value(concatenated(parts[1:]), "string", nullable=False)


def _substring(called: Called) -> Value:
    value = called.text(0)
    start = called.literal(1, "the start of a substring")
    if not isinstance(start.constant, int) or start.constant < 0:
        called.fail("the start of a substring is zero or more", "write substring(x, 0, 5)")
    places: list[exp.Expr] = [exp.Literal.number(start.constant + 1)]
    if len(called.arguments) > 2:
        length = function("greatest", called.number(2).copy, exp.Literal.number(0))
        places.append(length)
    return Value(function("substr", value.copy, *places), "string", value.nullable)


def _split(called: Called) -> Value:
    value, delimiter = called.text(0), called.literal(1, "the delimiter")
    if not isinstance(delimiter.constant, str) or not delimiter.constant:
        called.fail("the delimiter is a text of at least one character", "write split(x, ',')")
    clean = value.copy  # signs of ours inside the text would make items of their own
    for sign in (facts.ITEM, facts.MARK):
        if delimiter.constant != sign:
            clean = function("replace", clean, text_of(sign), " ")
    items = function("replace", clean, delimiter.copy, text_of(f"{facts.ITEM}s"))
    parts = joined([exp.Literal.string("ls"), items])
    if len(called.arguments) < 3:
        return Value(parts, "dynamic", value.nullable)
    at = called.literal(2, "the index").constant
    picked = function("array_element", items_of(parts), exp.Literal.number(at + 1))
    return Value(joined([exp.Literal.string("l"), picked]), "dynamic")


def _replace(called: Called) -> Value:
    value, old, new = called.text(0), called.text(1), called.text(2)
    return Value(function("replace", value.copy, old.copy, new.copy), "string", value.nullable)


def _replace_regex(called: Called) -> Value:
    value, pattern, new = called.text(0), _pattern(called, 1), called.literal(2, "the replacement")
    written = str(new.constant).replace("$", "$$")
    written = re.sub(r"\\(\d)", r"${\1}", written)
    return Value(
        function("regexp_replace", value.copy, pattern, text_of(written), "g"), "string",
        value.nullable,
    )  # fmt: skip


def _pattern(called: Called, position: int) -> str:
    pattern = called.literal(position, "the pattern").constant
    if not isinstance(pattern, str):
        called.fail("the pattern is a text", r"write @'\d+'")
    check_pattern(pattern, called.fail)
    return pattern


def _extract(called: Called) -> Value:
    pattern, group = _pattern(called, 0), called.literal(1, "the group").constant
    try:
        groups = re.compile(pattern).groups
    except re.error:
        groups = 99  # RE2 and Python differ; the engine says what it thinks of the pattern
    if not isinstance(group, int) or not 0 <= group <= groups:
        called.fail(f"the pattern has {groups} groups", "number groups from 1, 0 is all of it")
    value = called.text(2)
    # The whole match is made a group, so that 0 works where the engine gives groups only.
    whole = f"({pattern})" if group == 0 or not groups else pattern
    place = exp.Literal.number(1 if group == 0 else group)
    found = function("array_element", function("regexp_match", value.copy, whole), place)
    result = Value(found, "string")
    if len(called.arguments) < 4:
        return result
    kind = KINDS.get(str(called.literal(3, "the type").constant))
    return called.fail("not a type") if kind is None else convert(result, kind)


def _index_of(called: Called) -> Value:
    value, needle = called.text(0), called.text(1)
    place = cast(function("strpos", value.copy, needle.copy), "long")
    return Value(
        exp.Paren(this=exp.Sub(this=place, expression=exp.Literal.number(1))), "long",
        value.nullable or needle.nullable,
    )  # fmt: skip


def _count_of(called: Called) -> Value:
    value, needle = called.text(0), called.literal(1, "the searched text")
    kind = called.arguments[2].constant if len(called.arguments) > 2 else "normal"
    pattern = str(needle.constant) if kind == "regex" else escaped(str(needle.constant))
    check_pattern(pattern, called.fail)
    return Value(cast(function("regexp_count", value.copy, pattern), "long"), "long")


def _trim(pattern: str) -> Callable[[Called], Value]:
    def build(called: Called) -> Value:
        inner, value = _pattern(called, 0), called.text(1)
        return Value(
            function("regexp_replace", value.copy, pattern.replace("X", f"(?:{inner})"), "", "g"),
            "string", value.nullable,
        )  # fmt: skip

    return build


def _repeat(called: Called) -> Value:
    value, times = called.text(0), called.number(1)
    return Value(function("repeat", value.copy, times.copy), "string", value.nullable)


def _compare(called: Called) -> Value:
    left, right = called.text(0), called.text(1)
    less = exp.LT(this=left.copy, expression=right.copy)
    more = exp.GT(this=left.copy, expression=right.copy)
    minus = exp.Paren(this=exp.Neg(this=exp.Literal.number(1)))
    return Value(
        case((less, minus), (more, exp.Literal.number(1)), default=exp.Literal.number(0)), "long",
        nullable=False,
    )  # fmt: skip


def _digest(called: Called) -> Value:
    value = called.text(0)
    return Value(function("encode", function("sha256", value.copy), "hex"), "string")


def functions(make: Callable[..., Any]) -> dict[str, Any]:
    """The functions of this file; ``make(build, least, most)`` makes an entry."""
    return {
        "tolower": make(_applied("lower")), "toupper": make(_applied("upper")),
        "reverse": make(_applied("reverse")), "strlen": make(_length),
        "strcat": make(_strcat, 1, None), "strcat_delim": make(_strcat_delim, 2, None),
        "substring": make(_substring, 2, 3), "split": make(_split, 2, 3),
        "replace_string": make(_replace, 3, 3), "replace_regex": make(_replace_regex, 3, 3),
        "extract": make(_extract, 3, 4), "indexof": make(_index_of, 2, 2),
        "countof": make(_count_of, 2, 3), "strrep": make(_repeat, 2, 2),
        "trim": make(_trim("^X+|X+$"), 2, 2), "trim_start": make(_trim("^X+"), 2, 2),
        "trim_end": make(_trim("X+$"), 2, 2), "strcmp": make(_compare, 2, 2),
        "hash_sha256": make(_digest),
    }  # fmt: skip
