"""Properties as text that plain SQL can read, for an engine that has no JSON functions.

``facts`` holds each property path as ``\\x1f path \\x1e tag value``, closed by one ``\\x1f``.
Nested maps are flattened with dots, and the map itself is there too. A value is tagged: ``s``
text, ``n`` number (JSON number text), ``b`` ``true`` or ``false``, ``l`` a list (tagged items
joined by ``\\x1d``), ``m`` JSON text of a map. Null is absent. What JSON allows and the format
does not:

- ``\\x1c`` to ``\\x1f`` inside keys and values become spaces;
- a dot inside a key is written as ``\\x1c``, so that ``a.b`` always means b of a (see ``path``);
- containers inside lists are tagged ``m`` with their JSON text;
- a list that is not of one scalar type is followed by ``\\x1c`` and its JSON text;
- an integer beyond 64 bits is tagged ``m``, since no engine reads it as a number.

Every SQL helper takes and gives sqlglot expressions; a missing property is null, never ''.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import orjson
import pyarrow as pa
from sqlglot import Expr, exp

from agentcy_ray.core.errors import InvalidError

PROPERTY, KEY, ITEM, MARK = "\x1f", "\x1e", "\x1d", "\x1c"
_CLEAN = {ord(sign): " " for sign in (PROPERTY, KEY, ITEM, MARK)}
_INT64 = range(-(2**63), 2**63)
_SCALARS = {str, bool, int, float}
_DEEPEST = 32


def encode(properties: pa.StringArray) -> pa.StringArray:
    """Facts of JSON objects, one text for each; null stays null.

    Raises:
        InvalidError: a value is no JSON object.
    """
    return pa.array([_facts(text) for text in properties.to_pylist()], pa.string())


def path(*keys: str) -> str:
    """The path of nested keys as facts write it: joined by dots, a dot of a key escaped."""
    return ".".join(_key(key) for key in keys)


def _key(key: str) -> str:
    clean = key if key.isprintable() else key.translate(_CLEAN)
    return clean.replace(".", MARK)


def _facts(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidError(f"properties are not JSON: {error}; send a JSON object") from error
    if not isinstance(found, dict):
        raise InvalidError("properties are not a JSON object; send one, such as {}")
    parts: list[str] = []
    _flatten("", cast("dict[str, Any]", found), parts, 0)
    parts.append(PROPERTY)
    return "".join(parts)


def _flatten(prefix: str, values: dict[str, Any], parts: list[str], depth: int) -> None:
    for key, value in values.items():
        if value is None:
            continue
        name = prefix + _key(key)
        parts.append(f"{PROPERTY}{name}{KEY}{_tagged(value)}")
        if type(value) is dict and depth < _DEEPEST:
            _flatten(f"{name}.", value, parts, depth + 1)


def _tagged(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return "s" + (value if value.isprintable() else value.translate(_CLEAN))
    if kind is bool:
        return "btrue" if value else "bfalse"
    if kind is int:
        return f"n{value}" if value in _INT64 else f"m{value}"
    if kind is float:
        return f"n{value!r}"
    if kind is list:
        return _list(value)
    return "m" + orjson.dumps(value).decode()


def _list(items: list[Any]) -> str:
    body = "l" + ITEM.join("z" if item is None else _item(item) for item in items)
    kinds = {type(item) for item in items}
    plain = len(kinds) <= 1 and kinds <= _SCALARS
    if plain and kinds == {int}:
        plain = all(item in _INT64 for item in items)
    return body if plain else f"{body}{MARK}{orjson.dumps(items).decode()}"


def _item(item: Any) -> str:
    return f"m{orjson.dumps(item).decode()}" if type(item) is list else _tagged(item)


# -- the SQL side -----------------------------------------------------------------------------


def function(name: str, *arguments: Expr | str | int) -> Expr:
    """A call of an engine's function; texts and numbers become literals."""
    return exp.Anonymous(this=name, expressions=[_literal(each) for each in arguments])


def _literal(value: Expr | str | int) -> Expr:
    if isinstance(value, int):
        return exp.Literal.number(value)
    return exp.Literal.string(value) if isinstance(value, str) else value


def text_of(value: str) -> Expr:
    """A text literal; its control characters are written as ``chr(n)``, so the SQL is printable."""
    runs: list[Expr] = []
    plain = ""
    for sign in value:
        if sign < " ":
            if plain:
                runs.append(exp.Literal.string(plain))
            runs.append(function("chr", ord(sign)) if sign != "\0" else exp.Literal.string(""))
            plain = ""
        else:
            plain += sign
    if plain or not runs:
        runs.append(exp.Literal.string(plain))
    return joined(runs)


def joined(parts: Iterable[Expr]) -> Expr:
    """``a || b || …``: null when a part is."""
    whole, *rest = parts
    for each in rest:
        whole = exp.DPipe(this=whole, expression=each, safe=False)
    return whole


def tagged(column: Expr, key: str) -> Expr:
    """The tagged value of a path in a ``facts`` column, null when absent."""
    name = text_of(f"{PROPERTY}{key}{KEY}")
    after = function("split_part", column, name, 2)
    value = function("split_part", after, text_of(PROPERTY), 1)
    return function("nullif", value, "")


def tag(value: Expr) -> Expr:
    """The first character of a tagged value."""
    return function("substr", value, 1, 1)


def body(value: Expr) -> Expr:
    """A tagged value without its tag."""
    return function("substr", value, 2)


def _when(value: Expr, mark: str, then: Expr) -> Expr:
    condition = exp.EQ(this=tag(value.copy()), expression=exp.Literal.string(mark))
    return exp.Case(ifs=[exp.If(this=condition, true=then)])


def as_text(value: Expr) -> Expr:
    """The text of a tagged text, null for every other tag."""
    return _when(value, "s", body(value.copy()))


def as_number(value: Expr) -> Expr:
    """The number of a tagged number as a double, null for every other tag."""
    number = exp.TryCast(this=body(value.copy()), to=exp.DataType.build("double"))
    return _when(value, "n", number)


def as_integer(value: Expr) -> Expr:
    """The whole number of a tagged number, null for broken ones and every other tag."""
    number = exp.TryCast(this=body(value.copy()), to=exp.DataType.build("bigint"))
    return _when(value, "n", number)


def as_boolean(value: Expr) -> Expr:
    """The truth value of a tagged boolean, null for every other tag."""
    truth = exp.EQ(this=body(value.copy()), expression=exp.Literal.string("true"))
    return _when(value, "b", truth)


def as_items(value: Expr) -> Expr:
    """The tagged items of a tagged list as an SQL array (``z`` = null), null for other tags."""
    plain = function("split_part", body(value.copy()), text_of(MARK), 1)
    return _when(value, "l", function("string_to_array", plain, text_of(ITEM)))


def plain_text(value: Expr) -> Expr:
    """A tagged value as the text that people read: scalars without their tag, the rest as it is."""
    return body(value)
