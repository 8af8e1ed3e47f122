"""Typed SQL expressions, and how one type becomes another; for KQL and SQL.

Types in SQL: bool, bigint, double and text are themselves; ``datetime`` is a timestamp in
nanoseconds; ``timespan`` is a bigint of nanoseconds; ``dynamic`` is tagged text as in ``planned``,
lists included. The properties of an entity are a dynamic value that also knows its ``facts``
column, so that a path into it is one text search.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import orjson
from sqlglot import exp

from agentcy_ray.context.languages import facts
from agentcy_ray.context.languages.facts import function, joined, text_of
from agentcy_ray.context.languages.planned import Kind as OutputKind
from agentcy_ray.context.languages.planned import escape

Kind = Literal[
    "bool", "long", "real", "string", "datetime", "timespan", "dynamic", "null",
    "date", "interval", "list",
]  # fmt: skip
"""The last three are of SQL only; the engine's own types of those names."""
KINDS: dict[str, Kind] = {
    "bool": "bool", "boolean": "bool", "long": "long", "int": "long", "real": "real",
    "double": "real", "decimal": "real", "string": "string", "guid": "string",
    "datetime": "datetime", "date": "datetime", "timespan": "timespan", "time": "timespan",
    "dynamic": "dynamic",
}  # fmt: skip
"""Type names that a query may write."""

_SQL: dict[Kind, str] = {
    "bool": "boolean", "long": "bigint", "real": "double", "string": "varchar",
    "datetime": "timestamp", "timespan": "bigint", "dynamic": "varchar", "null": "varchar",
    "date": "date", "interval": "interval", "list": "varchar",
}  # fmt: skip
OUTPUT: dict[Kind, OutputKind] = {
    "bool": "boolean", "long": "integer", "real": "float", "string": "text",
    "datetime": "timestamp", "timespan": "text", "dynamic": "any", "null": "any",
    "date": "text", "interval": "text", "list": "any",
}  # fmt: skip
NUMERIC = frozenset({"long", "real"})
NANOSECONDS = "Timestamp(Nanosecond, None)"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNKNOWN = object()
"""The constant of a value that is computed by the engine."""


@dataclass(frozen=True, slots=True)
class Value:
    """An SQL expression with its type.

    ``facts`` and ``path`` tell where a dynamic value came from; the empty path is all properties.
    ``constant`` is the Python value of a literal.
    """

    sql: exp.Expr
    kind: Kind
    nullable: bool = True
    facts: exp.Expr | None = None
    path: str = ""
    constant: Any = UNKNOWN
    item: Kind = "null"
    """The type of a list's items."""

    @property
    def is_constant(self) -> bool:
        """Whether the value is known while planning."""
        return self.constant is not UNKNOWN

    @property
    def copy(self) -> exp.Expr:
        """The expression for a further place of the tree."""
        return self.sql.copy()


def nanoseconds_of(moment: datetime) -> int:
    """A moment in UTC as nanoseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


# -- constants


def constant(kind: Kind, value: Any) -> Value:
    """A literal of a type; None is its null."""
    if value is None:
        return Value(null(kind), kind, constant=None)
    if kind == "dynamic":
        return Value(text_of(tagged_constant(value)), kind, nullable=False, constant=value)
    return Value(_literal(kind, value), kind, nullable=False, constant=value)


def null(kind: Kind) -> exp.Expr:
    """A null of a type."""
    return exp.Cast(this=exp.Null(), to=exp.DataType.build(_SQL[kind]))


def _literal(kind: Kind, value: Any) -> exp.Expr:
    match kind:
        case "bool":
            return exp.true() if value else exp.false()
        case "string":
            return text_of(value)
        case "long" | "timespan":
            number = exp.Literal.number(abs(value))
            return exp.Paren(this=exp.Neg(this=number)) if value < 0 else number
        case "real":
            number = exp.Literal.string(repr(float(value)))
            return exp.Cast(this=number, to=exp.DataType.build("double"))
        case _:
            return function("arrow_cast", _literal("long", value), NANOSECONDS)


def tagged_constant(value: Any) -> str:
    """A JSON value as tagged text."""
    match value:
        case None:
            return "z"
        case bool():
            return "btrue" if value else "bfalse"
        case int() | float():
            return f"n{value!r}"
        case str():
            return f"s{value}"
        case list():
            return "l" + facts.ITEM.join(escape(tagged_constant(each)) for each in value)
        case _:
            return "m" + orjson.dumps(value).decode()


# -- conversions


def cast(sql: exp.Expr, kind: Kind, *, safely: bool = False) -> exp.Expr:
    """An SQL cast to the SQL type of a kind; ``safely`` gives null where it cannot be."""
    to = exp.DataType.build(_SQL[kind])
    return exp.TryCast(this=sql, to=to) if safely else exp.Cast(this=sql, to=to)


def nanos(value: Value) -> exp.Expr:
    """A datetime or timespan as a bigint of nanoseconds."""
    if value.is_constant and value.constant is not None:
        return _literal("long", value.constant)
    return cast(value.copy, "long") if value.kind == "datetime" else value.copy


def case(*branches: tuple[exp.Expr, exp.Expr], default: exp.Expr | None = None) -> exp.Expr:
    """``CASE WHEN … THEN … ELSE … END``."""
    ifs = [exp.If(this=condition, true=result) for condition, result in branches]
    return exp.Case(ifs=ifs, default=default)


def tag_is(sql: exp.Expr, marks: str) -> exp.Expr:
    """Whether a tagged text has one of some tags."""
    found = facts.tag(sql.copy())
    if len(marks) == 1:
        return exp.EQ(this=found, expression=exp.Literal.string(marks))
    return exp.In(this=found, expressions=[exp.Literal.string(mark) for mark in marks])


def to_text(value: Value) -> exp.Expr:
    """As ``tostring`` has it, null for null."""
    match value.kind:
        case "string":
            return value.copy
        case "dynamic":
            return _dynamic_text(value.copy)
        case "datetime":
            return stamp(value.copy)
        case "timespan":
            return span_text(value.copy)
        case _:
            return cast(value.copy, "string")


def _dynamic_text(sql: exp.Expr) -> exp.Expr:
    """Scalars without their tag, maps as their JSON text, lists as JSON of their items."""
    separator = text_of(facts.ITEM)
    body = function("split_part", facts.body(sql.copy()), text_of(facts.MARK), 1)
    quoted = function(
        "regexp_replace", joined([separator.copy(), body]), r"\x1ds([^\x1d]*)",
        text_of(facts.ITEM + 'n"${1}"'), "g",
    )  # fmt: skip
    bare = function("regexp_replace", quoted, r"\x1d[nbmt]", separator.copy(), "g")
    items = function("replace", function("substr", bare, 2), separator.copy(), ",")
    as_json = joined([exp.Literal.string("["), items, exp.Literal.string("]")])
    return case((tag_is(sql, "l"), as_json), (tag_is(sql, "z"), null("string")),
                default=facts.body(sql.copy()))  # fmt: skip


def stamp(sql: exp.Expr) -> exp.Expr:
    """A timestamp as RFC 3339 text with seven digits, as Kusto writes it."""
    digits = function("to_char", sql, "%Y-%m-%dT%H:%M:%S%.9f")
    return joined([function("substr", digits, 1, 27), exp.Literal.string("Z")])


def span_text(sql: exp.Expr) -> exp.Expr:
    """A timespan as ``[-][d.]hh:mm:ss[.fffffff]``."""
    size = function("abs", sql.copy())

    def part(unit: int, modulus: int | None = None) -> exp.Expr:
        whole = exp.Div(this=size.copy(), expression=exp.Literal.number(unit))
        if modulus is None:
            return whole
        return exp.Mod(this=exp.Paren(this=whole), expression=exp.Literal.number(modulus))

    def two(number: exp.Expr, width: int = 2) -> exp.Expr:
        return function("lpad", cast(number, "string"), width, "0")

    second = 1_000_000_000
    days, ticks = part(86_400 * second), part(100, 10_000_000)
    empty, zero = exp.Literal.string(""), exp.Literal.number(0)
    return joined([
        case((exp.LT(this=sql.copy(), expression=zero.copy()), exp.Literal.string("-")),
             default=empty.copy()),
        case((exp.GT(this=days, expression=zero.copy()),
              joined([cast(days.copy(), "string"), exp.Literal.string(".")])),
             default=empty.copy()),
        two(part(3600 * second, 24)), exp.Literal.string(":"),
        two(part(60 * second, 60)), exp.Literal.string(":"), two(part(second, 60)),
        case((exp.GT(this=ticks, expression=zero.copy()),
              joined([exp.Literal.string("."), two(ticks.copy(), 7)])),
             default=empty.copy()),
    ])  # fmt: skip


def to_number(value: Value, kind: Kind) -> exp.Expr:
    """As ``tolong`` and ``todouble`` have it: null for what is no number."""
    match value.kind:
        case "dynamic":
            number = cast(facts.body(value.copy), "real", safely=True)
            if kind == "long":
                whole = cast(facts.body(value.copy), "long", safely=True)
                number = function("coalesce", whole, cast(number, "long", safely=True))
            truth = case((exp.EQ(this=value.copy, expression=exp.Literal.string("btrue")),
                          exp.Literal.number(1)), default=exp.Literal.number(0))  # fmt: skip
            return case((tag_is(value.sql, "ns"), number), (tag_is(value.sql, "b"), truth))
        case "string":
            if kind == "real":
                return cast(value.copy, "real", safely=True)
            whole = cast(value.copy, "long", safely=True)
            broken = cast(cast(value.copy, "real", safely=True), "long", safely=True)
            return function("coalesce", whole, broken)
        case "datetime":
            return cast(nanos(value), kind)
        case _:
            return cast(value.copy, kind, safely=True)


def to_bool(value: Value) -> exp.Expr:
    """As ``tobool`` has it."""
    match value.kind:
        case "bool":
            return value.copy
        case "long" | "real":
            return exp.NEQ(this=value.copy, expression=exp.Literal.number(0))
        case "dynamic" | "string":
            text = facts.body(value.copy) if value.kind == "dynamic" else value.copy
            word = function("lower", text)
            yes = [exp.Literal.string(each) for each in ("true", "1")]
            no = [exp.Literal.string(each) for each in ("false", "0")]
            return case((exp.In(this=word, expressions=yes), exp.true()),
                        (exp.In(this=word.copy(), expressions=no), exp.false()))  # fmt: skip
        case _:
            return null("bool")


def to_datetime(value: Value) -> exp.Expr:
    """As ``todatetime`` has it: null for what is no moment."""
    match value.kind:
        case "datetime":
            return value.copy
        case "string":
            return cast(value.copy, "datetime", safely=True)
        case "dynamic":
            text = facts.body(value.copy)
            return case((tag_is(value.sql, "st"), cast(text, "datetime", safely=True)))
        case "long":
            return function("arrow_cast", value.copy, NANOSECONDS)
        case _:
            return null("datetime")


def to_dynamic(value: Value) -> exp.Expr:
    """The tagged text of a value, null for null."""
    mark = {"string": "s", "long": "n", "real": "n", "bool": "b", "timespan": "s", "datetime": "t"}
    if value.kind == "dynamic":
        return value.copy
    if value.kind == "null":
        return null("dynamic")
    if value.kind == "datetime":  # as the answer's columns write it
        text = function("to_char", value.copy, "%Y-%m-%dT%H:%M:%S%.6fZ")
    else:
        text = to_text(value)
    return joined([exp.Literal.string(mark[value.kind]), text])


def convert(value: Value, kind: Kind) -> Value:
    """A value as another type; what cannot be one is null."""
    if value.kind == kind:
        return value
    if value.is_constant and value.constant is None:
        return constant(kind, None)
    if kind == "real" and value.kind == "long" and value.is_constant:
        return constant("real", float(value.constant))
    match kind:
        case "string":
            sql = to_text(value)
        case "long" | "real" | "timespan":
            sql = to_number(value, "long" if kind == "timespan" else kind)
        case "bool":
            sql = to_bool(value)
        case "datetime":
            sql = to_datetime(value)
        case _:
            sql = to_dynamic(value)
    plain = value.kind in ("bool", "long", "real", "datetime", "timespan") and kind == "string"
    return Value(sql, kind, nullable=value.nullable or not plain)


def list_item(value: Value) -> exp.Expr:
    """The tagged text of a value as an item of a list; nested lists are escaped."""
    tagged = to_dynamic(value)
    if value.kind in ("long", "real", "bool", "datetime", "timespan"):
        return tagged
    marked = function("replace", tagged, text_of(facts.MARK), text_of(f"{facts.MARK}e"))
    return function("replace", marked, text_of(facts.ITEM), text_of(f"{facts.MARK}s"))


def list_of(items: exp.Expr) -> exp.Expr:
    """A tagged list from an SQL array of tagged items; null items are left out."""
    body = function("array_to_string", items, text_of(facts.ITEM))
    return joined([exp.Literal.string("l"), function("coalesce", body, "")])


def items_of(sql: exp.Expr) -> exp.Expr:
    """The tagged items of a tagged list as an SQL array, ``['']`` or ``[]`` for an empty list."""
    plain = function("split_part", facts.body(sql.copy()), text_of(facts.MARK + "["), 1)
    return function("string_to_array", plain, text_of(facts.ITEM))


def item(sql: exp.Expr) -> exp.Expr:
    """An item taken out of a list: no longer escaped, null for ``z`` and for nothing."""
    plain = function("replace", sql, text_of(f"{facts.MARK}s"), text_of(facts.ITEM))
    plain = function("replace", plain, text_of(f"{facts.MARK}e"), text_of(facts.MARK))
    return function("nullif", function("nullif", plain, "z"), "")


def with_sql(value: Value, sql: exp.Expr) -> Value:
    """The value by another expression, no longer a constant."""
    return replace(value, sql=sql, constant=UNKNOWN)


def without_facts(value: Value) -> Value:
    """The value, no longer read into by path."""
    return replace(value, facts=None, path="") if value.facts is not None else value


def common(kinds: Iterable[Kind]) -> Kind:
    """The type that holds values of all the types."""
    found: set[Kind] = {kind for kind in kinds if kind != "null"}
    if not found:
        return "null"
    if len(found) == 1:
        return next(iter(found))
    return "real" if found <= NUMERIC else "dynamic"
