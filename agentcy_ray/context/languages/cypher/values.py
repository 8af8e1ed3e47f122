"""What an expression is in SQL: its kind, and the ways from one kind to another.

Kinds are those of ``planned``. A scalar of a known kind is an SQL column of that type; ``any`` is
tagged text (see ``planned``), so that a property of unknown type is compared by its tag. A list is
an SQL array of tagged, escaped items. A node, an edge or a map may be known by its fields, each a
column of its own, which lets the engine read only those that the query names; it becomes one
tagged text only where it must be one value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlglot import Expr

from agentcy_ray.context.languages.cypher import sql
from agentcy_ray.context.languages.facts import ITEM, MARK, body, tag
from agentcy_ray.context.languages.planned import EDGE_FIELDS, FIELD, NODE_FIELDS, Kind

NUMERIC = ("integer", "float")
SCALARS = ("text", "integer", "float", "boolean")


class _Unset:
    """No constant."""


UNSET = _Unset()


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One planned expression.

    ``sql`` is of the type that ``kind`` says; ``fields`` are those of a node or an edge;
    ``entries`` of a map; ``items`` of a list whose length is known; ``item`` the kind of a list's
    items; ``parts`` of a path: its nodes, its relationships; ``constant`` what is known when
    planning; ``raw`` marks an ``any`` that may hold JSON text still tagged as such.
    """

    kind: Kind
    sql: Expr
    fields: Mapping[str, Expr] | None = None
    entries: Mapping[str, Value] | None = None
    items: tuple[Value, ...] | None = None
    item: Kind = "any"
    parts: tuple[Value, Value] | None = None
    constant: Any = UNSET
    raw: bool = False

    @property
    def is_null(self) -> bool:
        """Whether it is the null literal."""
        return self.constant is None


def null() -> Value:
    """The null literal."""
    return Value("any", sql.cast(sql.NULL, "text"), constant=None)


def constant(value: Any) -> Value:
    """A value that is known when planning: what JSON can say."""
    match value:
        case None:
            return null()
        case bool():
            return Value("boolean", sql.TRUE if value else sql.FALSE, constant=value)
        case int():
            if not -(2**63) <= value < 2**63:
                return constant(float(value))
            return Value("integer", sql.number(value), constant=value)
        case float():
            return Value("float", sql.number(value), constant=value)
        case str():
            return Value("text", sql.lit(value), constant=value)
        case dict():
            entries = {str(key): constant(each) for key, each in value.items()}
            return replace(map_of(entries), constant=value)
        case list() | tuple():
            return replace(list_of([constant(each) for each in value]), constant=value)
        case _:
            return constant(str(value))


def boolean(condition: Expr) -> Value:
    """A condition as a value."""
    return Value("boolean", condition)


def text(expression: Expr) -> Value:
    """A text as a value."""
    return Value("text", expression)


def integer(expression: Expr) -> Value:
    """A whole number as a value."""
    return Value("integer", expression)


# -- lists, maps, entities --------------------------------------------------------------------


def escaped(value: Value) -> Expr:
    """A value as an item of an array: tagged, ``z`` for null, nested separators escaped."""
    tagged = to_any(value)
    if value.kind not in (*NUMERIC, "boolean") and not _plain_constant(value):
        once = sql.function("replace", tagged, sql.lit(MARK), sql.lit(f"{MARK}e"))
        tagged = sql.function("replace", once, sql.lit(ITEM), sql.lit(f"{MARK}s"))
    return tagged if value.constant is not UNSET and not value.is_null else sql.function(
        "coalesce", tagged, "z"
    )  # fmt: skip


def _plain_constant(value: Value) -> bool:
    return isinstance(value.constant, str) and not {MARK, ITEM} & set(value.constant)


def item_value(item: Expr, kind: Kind = "any") -> Value:
    """The value of an item of an array, whose kind is known or ``any``."""
    once = sql.function("replace", item, sql.lit(f"{MARK}s"), sql.lit(ITEM))
    plain = sql.function("replace", once, sql.lit(f"{MARK}e"), sql.lit(MARK))
    return of_tagged(sql.function("nullif", plain, "z"), kind)


def of_tagged(tagged: Expr, kind: Kind) -> Value:
    """A tagged text whose kind is known, as a value of that kind."""
    match kind:
        case "text":
            return Value("text", body(tagged))
        case "integer":
            return Value("integer", sql.cast(body(tagged), "bigint", strict=False))
        case "float":
            return Value("float", sql.cast(body(tagged), "double", strict=False))
        case "boolean":
            return Value("boolean", sql.compare("=", body(tagged), sql.lit("true")))
        case "node":
            return Value("node", tagged, fields=_split(tagged, NODE_FIELDS))
        case "edge":
            return Value("edge", tagged, fields=_split(tagged, EDGE_FIELDS))
        case "list":
            return Value("list", items_of(tagged))
        case _:
            return Value(kind, tagged)


def _split(tagged: Expr, names: tuple[str, ...]) -> dict[str, Expr]:
    """The fields of an encoded entity; the text is null when the entity is, and so are they."""
    whole = body(tagged)
    return {
        name: sql.function("split_part", whole, sql.lit(FIELD), position)
        for position, name in enumerate(names, 1)
    }


def items_of(tagged: Expr) -> Expr:
    """The array of a tagged list; null for other tags."""
    inner = sql.function("string_to_array", body(tagged), sql.lit(ITEM))
    filled = sql.case(
        (sql.compare("=", tagged, sql.lit("l")), sql.empty_array()), default=inner
    )  # fmt: skip
    return sql.case((sql.compare("=", tag(tagged), sql.lit("l")), filled))


def list_of(items: list[Value]) -> Value:
    """A list whose items are known one by one."""
    kinds: set[Kind] = {item.kind for item in items}
    kind = _only(kinds)
    return Value("list", sql.array(escaped(item) for item in items), items=tuple(items), item=kind)


def array_of(items: Expr, kind: Kind = "any") -> Value:
    """A list that is an SQL array of escaped items."""
    return Value("list", items, item=kind)


def map_of(entries: Mapping[str, Value]) -> Value:
    """A map whose keys are known."""
    pairs: list[Expr] = []
    for key, value in entries.items():
        pairs += [sql.lit(f"k{key}".replace(MARK, f"{MARK}e").replace(ITEM, f"{MARK}s")),
                  escaped(value)]  # fmt: skip
    whole = sql.lit("d")
    if pairs:
        flat = sql.function("array_to_string", sql.array(pairs), sql.lit(ITEM))
        whole = sql.joined([sql.lit("d"), flat])
    return Value("map", whole, entries=dict(entries))


def entry_of(tagged: Expr, key: str) -> Expr:
    """The tagged value of a key of an encoded map, null when absent."""
    items = sql.function("string_to_array", body(tagged), sql.lit(ITEM))
    name = f"k{key}".replace(MARK, f"{MARK}e").replace(ITEM, f"{MARK}s")
    found = sql.function("array_position", items, sql.lit(name))
    after = sql.binary("+", sql.cast(found, "bigint"), sql.number(1))
    return item_value(sql.function("array_element", items, after)).sql


def entity(kind: Kind, fields: Mapping[str, Expr]) -> Value:
    """A node or an edge known by its fields; null when its id is."""
    names = NODE_FIELDS if kind == "node" else EDGE_FIELDS
    return Value(kind, _encoded(kind, names, fields), fields=dict(fields))


def slim(value: Value) -> Value:
    """The same entity to be shown only: without the text that properties are read from."""
    if value.fields is None:
        return value
    return entity(value.kind, {**value.fields, "facts": sql.lit("")})


def _encoded(kind: Kind, names: tuple[str, ...], fields: Mapping[str, Expr]) -> Expr:
    parts: list[Expr] = [sql.lit("N" if kind == "node" else "R")]
    for name in names:
        part = fields[name]
        if name != "id":
            part = sql.function("coalesce", part, "")
        if name in ("name", "external_id", "facts"):  # any text may hold the separator
            part = sql.function("replace", part, sql.lit(FIELD), " ")
        parts += [part, sql.lit(FIELD)]
    return sql.joined(parts[:-1])


# -- from kind to kind ------------------------------------------------------------------------


def to_any(value: Value) -> Expr:
    """Tagged text of a value; null stays null."""
    match value.kind:
        case "text":
            return sql.joined([sql.lit("s"), value.sql])
        case "integer" | "float":
            return sql.joined([sql.lit("n"), sql.cast(value.sql, "text")])
        case "boolean":
            return sql.joined([sql.lit("b"), sql.cast(value.sql, "text")])
        case "timestamp":
            return sql.joined([sql.lit("t"), sql.cast(value.sql, "text")])
        case "list":
            flat = sql.function("array_to_string", value.sql, sql.lit(ITEM))
            return sql.joined([sql.lit("l"), flat])
        case _:
            return _settled(value.sql) if value.raw else value.sql


def _settled(raw: Expr) -> Expr:
    """A property as Cypher has it: what no property graph holds as it is, is its JSON text."""
    at = sql.function("strpos", raw, sql.lit(f"{MARK}["))
    mixed = sql.compare(">", at, sql.number(0))
    json = sql.function("substr", raw, sql.binary("+", sql.cast(at, "bigint"), sql.number(1)))
    return sql.case(
        (sql.compare("=", tag(raw), sql.lit("m")), sql.joined([sql.lit("s"), body(raw)])),
        (sql.all_of([sql.compare("=", tag(raw), sql.lit("l")), mixed]),
         sql.joined([sql.lit("s"), json])),
        default=raw,
    )  # fmt: skip


def has_tag(value: Expr, *tags: str) -> Expr:
    """Whether a tagged text has one of some tags."""
    return sql.any_of(sql.compare("=", tag(value), sql.lit(each)) for each in tags)


def as_text(value: Value) -> Expr:
    """The text of a value that is one, else null."""
    if value.kind == "text":
        return value.sql
    if value.kind == "any":
        return sql.case((has_tag(value.sql, "s", "m"), body(value.sql)))
    return sql.cast(sql.NULL, "text")


def as_number(value: Value) -> Expr:
    """The number of a value as a double, else null."""
    if value.kind == "float":
        return value.sql
    if value.kind == "integer":
        return sql.cast(value.sql, "double")
    if value.kind == "any":
        return sql.case((has_tag(value.sql, "n"),
                         sql.cast(body(value.sql), "double", strict=False)))  # fmt: skip
    return sql.cast(sql.NULL, "double")


def as_integer(value: Value) -> Expr:
    """The whole number of a value that is one, else null."""
    if value.kind == "integer":
        return value.sql
    if value.kind == "any":
        return sql.case((has_tag(value.sql, "n"),
                         sql.cast(body(value.sql), "bigint", strict=False)))  # fmt: skip
    return sql.cast(sql.NULL, "bigint")


def as_boolean(value: Value) -> Expr:
    """The truth of a value that is a boolean, else null."""
    if value.kind == "boolean":
        return value.sql
    if value.kind == "any":
        true = sql.compare("=", value.sql, sql.lit("btrue"))
        return sql.case((has_tag(value.sql, "b"), true))
    return sql.cast(sql.NULL, "boolean")


def as_list(value: Value) -> Value:
    """A value that is a list; null for what is none."""
    if value.kind == "list":
        return value
    return array_of(items_of(to_any(value)))


def key_of(value: Value) -> Expr:
    """What tells a value from another, as text, '' for null: for joining, grouping, ordering."""
    if value.fields is not None:
        return sql.function("coalesce", value.fields["id"], "")
    tagged = to_any(value)
    return sql.function("coalesce", alike(tagged) if value.kind == "any" else tagged, "")


def alike(tagged: Expr) -> Expr:
    """A tagged text that is the same for equal numbers: 1.0 becomes 1."""
    return sql.function("regexp_replace", tagged, sql.lit("^(n-?[0-9]+)[.]0$"), sql.lit("${1}"))


def as_kind(value: Value, kind: Kind) -> Value:
    """A value in the form of a wider kind, for the branches of a ``CASE`` or a ``UNION``."""
    if value.kind == kind and kind != "list":
        return Value(kind, to_any(value) if kind not in SCALARS else value.sql)
    if value.is_null and kind in SCALARS:
        names = {"text": "text", "integer": "bigint", "float": "double", "boolean": "boolean"}
        return Value(kind, sql.cast(sql.NULL, names[kind]))
    if value.is_null and kind == "list":
        return Value(kind, sql.function("arrow_cast", sql.NULL, "List(Utf8)"))
    if kind == "float":
        return Value("float", as_number(value))
    if kind == "list":
        return as_list(value)
    return of_tagged(to_any(value), kind) if kind in ("node", "edge") else Value(
        kind, to_any(value)
    )  # fmt: skip


def common(values: list[Value]) -> Kind:
    """The kind that holds them all; nulls do not count."""
    kinds: set[Kind] = {value.kind for value in values if not value.is_null}
    return _only(kinds)


def _only(kinds: set[Kind]) -> Kind:
    return next(iter(kinds)) if len(kinds) == 1 else "any"
