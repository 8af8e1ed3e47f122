"""Comparisons of KQL in SQL: null, letter case and terms as Kusto has them.

A value compared with an absent one is unequal to it, not unknown: ``x != 5`` holds where ``x`` is
absent, and ``not(x == 5)`` too. Inside a filter the plain SQL comparison says the same and is
faster, so ``filtering`` asks for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from sqlglot import exp

from agentcy_ray.context.languages.facts import function, joined
from agentcy_ray.context.languages.kql import literals
from agentcy_ray.context.languages.values import (
    NUMERIC,
    Kind,
    Value,
    case,
    constant,
    convert,
    null,
    tagged_constant,
)

Fail = Callable[..., NoReturn]
_ORDER: dict[str, type[exp.Binary]] = {"<": exp.LT, "<=": exp.LTE, ">": exp.GT, ">=": exp.GTE}
_EDGE = r"[^\p{L}\p{N}]"
TEXT_OPERATORS = (
    "has", "has_cs", "contains", "contains_cs", "startswith", "startswith_cs",
    "endswith", "endswith_cs", "hasprefix", "hasprefix_cs", "hassuffix", "hassuffix_cs",
)  # fmt: skip


def compare(
    operator: str, left: Value, right: Value, fail: Fail, *, filtering: bool = False
) -> exp.Expr:
    """``left operator right`` as an SQL condition.

    Raises:
        QueryRejectedError: through ``fail``, when the types cannot be compared.
    """
    if operator in ("=~", "!~"):
        same = equal(_folded(left, fail), _folded(right, fail), filtering=filtering)
        return negated(same) if operator == "!~" else same
    if operator == "matches regex":
        return function("regexp_like", text(left, fail).copy, _pattern(right, fail))
    if operator not in ("==", "!=") and operator not in _ORDER:
        return _text_compare(operator, left, right, fail)
    left, right = aligned(left, right, fail, ordering=operator in _ORDER)
    if operator == "==":
        return equal(left, right, filtering=filtering)
    if operator == "!=":
        return unequal(left, right)
    return _ORDER[operator](this=left.copy, expression=right.copy)


def equal(left: Value, right: Value, *, filtering: bool) -> exp.Expr:
    """Equality; two absent values are unknown to each other, but for texts, which are equal."""
    if (right.is_constant and right.constant == "") or (left.is_constant and left.constant == ""):
        return exp.EQ(this=_filled(left), expression=_filled(right))
    plain = exp.EQ(this=left.copy, expression=right.copy)
    if filtering or not (left.nullable or right.nullable):
        return plain
    same = exp.Paren(this=exp.NullSafeEQ(this=left.copy, expression=right.copy))
    if left.kind == "string":
        return same
    neither = exp.And(
        this=exp.Is(this=left.copy, expression=exp.Null()),
        expression=exp.Is(this=right.copy, expression=exp.Null()),
    )
    return case((neither, null("bool")), default=same)


def unequal(left: Value, right: Value) -> exp.Expr:
    """Inequality: an absent value differs from every other."""
    if (right.is_constant and right.constant == "") or (left.is_constant and left.constant == ""):
        return exp.NEQ(this=_filled(left), expression=_filled(right))
    if left.nullable or right.nullable:
        # In parentheses: engines read what follows FROM as far as it goes.
        return exp.Paren(this=exp.NullSafeNEQ(this=left.copy, expression=right.copy))
    return exp.NEQ(this=left.copy, expression=right.copy)


def negated(condition: exp.Expr) -> exp.Expr:
    """The opposite, where unknown counts as false."""
    return exp.Not(this=function("coalesce", condition, exp.false()))


def _filled(value: Value) -> exp.Expr:
    if not value.nullable:
        return value.copy
    return function("coalesce", convert(value, "string").copy, "")


def aligned(left: Value, right: Value, fail: Fail, *, ordering: bool) -> tuple[Value, Value]:
    """Two values in types that SQL compares as KQL does."""
    for one, other in ((left, right), (right, left)):
        if one.is_constant and one.constant is None and one.kind == "null":
            fail("nothing is equal to null", "use isnull(x) or isnotnull(x)")
        if one.kind == "datetime" and other.kind == "string" and other.is_constant:
            moment = literals.moment(str(other.constant))
            if moment is None:
                fail("a text is not compared with a datetime", "write datetime(2026-06-01)")
            return aligned(
                *((one, constant("datetime", moment)) if one is left
                  else (constant("datetime", moment), one)),
                fail, ordering=ordering,
            )  # fmt: skip
    if left.kind == right.kind:
        if left.kind == "dynamic" and ordering:
            return convert(left, "real"), convert(right, "real")
        return left, right
    if {left.kind, right.kind} <= NUMERIC:
        return left, right
    if "dynamic" in (left.kind, right.kind):
        return _with_dynamic(left, right, fail, ordering=ordering)
    needed = _advice(left.kind, right.kind)
    return fail(f"a {left.kind} is not compared with a {right.kind}", needed)


def _with_dynamic(left: Value, right: Value, fail: Fail, *, ordering: bool) -> tuple[Value, Value]:
    other = right if left.kind == "dynamic" else left
    if other.kind == "timespan":
        fail("properties hold no timespans", "compare todouble(x) with a number")
    kind: Kind = "real" if other.kind in NUMERIC else other.kind
    if kind in ("string", "bool") and not ordering:
        return _tagged(left), _tagged(right)  # by tag, so that the text "true" is not the value
    if other.kind in NUMERIC:
        return _number(left), _number(right)
    return convert(left, kind), convert(right, kind)


def _number(value: Value) -> Value:
    """Only what is a number in JSON: the text "5" is not 5."""
    if value.kind != "dynamic":
        return value
    is_number = exp.EQ(
        this=function("substr", value.copy, 1, 1), expression=exp.Literal.string("n")
    )
    number = convert(value, "real")
    return Value(exp.Case(ifs=[exp.If(this=is_number, true=number.sql)]), "real")


def _tagged(value: Value) -> Value:
    if value.is_constant and value.kind != "dynamic":
        return Value(constant("string", tagged_constant(value.constant)).sql, "dynamic", False)
    return convert(value, "dynamic")


def _advice(left: Kind, right: Kind) -> str:
    if "string" in (left, right):
        other = right if left == "string" else left
        convertible = {"long": "tolong", "real": "todouble", "bool": "tobool"}
        return f"write {convertible.get(other, 'todatetime')}(x) or tostring(x)"
    return "convert one side, for example by todouble(x)"


# -- text


def text(value: Value, fail: Fail) -> Value:
    """A text, or a dynamic value as one; other types are refused."""
    if value.kind in ("string", "null"):
        return value
    if value.kind == "dynamic":
        return convert(value, "string")
    return fail(f"a text is expected, not a {value.kind}", "write tostring(x)")


def _folded(value: Value, fail: Fail) -> Value:
    found = text(value, fail)
    if found.is_constant:
        return constant("string", None if found.constant is None else found.constant.lower())
    return Value(function("lower", found.copy), "string", found.nullable)


def _pattern(value: Value, fail: Fail) -> exp.Expr:
    found = text(value, fail)
    if found.is_constant and found.constant is not None:
        check_pattern(str(found.constant), fail)
    return found.copy


def check_pattern(pattern: str, fail: Fail) -> None:
    """Refuse patterns that RE2-like engines do not have, before the engine does."""
    if re.search(r"\(\?[=!<](?!\w+>)|\\[1-9]", pattern):
        fail("look-around and back references are not supported", "use plain RE2 patterns")
    if len(pattern) > 2000:
        fail("the pattern is longer than 2000 characters", "shorten it")


def _text_compare(operator: str, left: Value, right: Value, fail: Fail) -> exp.Expr:
    if operator.startswith("!"):
        return negated(_text_compare(operator[1:], left, right, fail))
    sensitive = operator.endswith("_cs")
    word = operator.removesuffix("_cs")
    if word in ("has", "hasprefix", "hassuffix"):
        needle = text(right, fail)
        if not needle.is_constant or needle.constant is None:
            fail(f"{word} takes a literal text", "use contains for a computed one")
        return has(word, text(left, fail), str(needle.constant), sensitive=sensitive)
    if sensitive:
        subject, needle = text(left, fail), text(right, fail)
    else:
        subject, needle = _folded(left, fail), _folded(right, fail)
    if word == "startswith":
        return function("starts_with", subject.copy, needle.copy)
    if word == "endswith":
        return function("ends_with", subject.copy, needle.copy)
    found = function("strpos", subject.copy, needle.copy)
    return exp.GT(this=found, expression=exp.Literal.number(0))


def has(word: str, subject: Value, needle: str, *, sensitive: bool) -> exp.Expr:
    """Whether a text holds a term: a run of letters and digits, whole or from one side."""
    if not needle:
        return exp.Not(this=exp.Is(this=subject.copy, expression=exp.Null()))
    before = rf"(^|{_EDGE})" if needle[0].isalnum() and word != "hassuffix" else ""
    after = rf"($|{_EDGE})" if needle[-1].isalnum() and word != "hasprefix" else ""
    pattern = f"{'' if sensitive else '(?i)'}{before}{escaped(needle)}{after}"
    return function("regexp_like", subject.copy, pattern)


def escaped(needle: str) -> str:
    """A text as a pattern that matches just it."""
    return re.sub(r"([\\.+*?()|\[\]{}^$#&\-~])", r"\\\1", needle)


def member(
    operator: str, subject: Value, items: list[Value], fail: Fail, *, filtering: bool
) -> exp.Expr:
    """``in``, ``!in``, ``in~``, ``!in~``, ``has_any`` and ``has_all`` over values."""
    if operator in ("has_any", "has_all"):
        joined_by = exp.or_ if operator == "has_any" else exp.and_
        found = [compare("has", subject, each, fail) for each in items]
        return exp.Paren(this=joined_by(*found)) if found else exp.false()
    if operator.startswith("!"):
        return negated(member(operator[1:], subject, items, fail, filtering=filtering))
    if not items:
        return exp.false()
    if operator == "in~":
        pairs = [(_folded(subject, fail), _folded(each, fail)) for each in items]
    else:
        pairs = [aligned(subject, each, fail, ordering=False) for each in items]
    groups: dict[str, list[exp.Expr]] = {}
    lefts: dict[str, Value] = {}
    for left, right in pairs:
        groups.setdefault(left.kind, []).append(right.copy)
        lefts[left.kind] = left
    parts = [exp.In(this=lefts[kind].copy, expressions=found) for kind, found in groups.items()]
    condition = exp.Paren(this=exp.or_(*parts)) if len(parts) > 1 else parts[0]
    if filtering or not subject.nullable:
        return condition
    return function("coalesce", condition, exp.false())


def concatenated(values: list[exp.Expr]) -> exp.Expr:
    """Texts in a row, absent ones left out."""
    return function("concat", *values) if len(values) > 1 else joined(values)
