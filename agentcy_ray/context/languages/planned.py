"""What a planner hands to the engine, and how the engine's columns become values again.

Scalars travel as SQL columns of their type. Everything else travels as tagged text, the form of
``facts`` and some more, since the engine has neither JSON functions nor a type for any value:

``s``, ``n``, ``b``, ``m``  as in ``facts``; a number with ``.``, ``e`` or a word is a float
``z``                      null, inside a list
``t``                      a time, RFC 3339
``l``                      a list: items, each tagged, joined by ``\\x1d``
``d``                      a map: key and value in turn, as the items of a list; ``k`` a key
``N``, ``R``               a node, an edge: the fields of ``NODE_FIELDS``, ``EDGE_FIELDS`` in turn
``P``                      a path: node, edge, node … as the items of a list

An item that holds ``\\x1d`` itself has it written as ``\\x1cs``, and ``\\x1c`` as ``\\x1ce``, so
that lists nest. Fields of a node and an edge are joined by ``\\x02``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import orjson
import pyarrow as pa
import pyarrow.compute
from sqlglot import Dialect, Expr

from agentcy_ray.context.languages.facts import ITEM, MARK
from agentcy_ray.context.languages.spread import spread
from agentcy_ray.core.errors import QueryTooCostlyError

pc: Any = pyarrow.compute
"""Made at import, so a type checker cannot see its functions."""

Kind = Literal[
    "text", "integer", "float", "boolean", "timestamp",
    "any", "node", "edge", "path", "list", "map",
]  # fmt: skip
FIELD = "\x02"
NODE_FIELDS = (
    "id", "label_set", "realm", "name", "connector", "source_id", "external_id",
    "first_seen", "last_seen", "archived_at", "content_hash", "facts", "props",
)  # fmt: skip
EDGE_FIELDS = (
    "id", "src", "dst", "type", "realm", "source_id",
    "first_seen", "last_seen", "archived_at", "content_hash", "facts", "props",
)  # fmt: skip

_SCALARS: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us"),
}
_TYPES: dict[Kind, str] = {
    "text": "string",
    "integer": "int64",
    "float": "double",
    "boolean": "bool",
    "timestamp": "string",
    "node": "node",
    "edge": "edge",
    "path": "path",
    "list": "list",
    "map": "map",
}
_TAG_TYPES = {
    "s": "string", "t": "string", "b": "bool", "l": "list", "d": "map", "m": "map",
    "N": "node", "R": "edge", "P": "path",
}  # fmt: skip
_TEXT_TAGS = pa.array(["s", "t", "k"])
_JSON_TAGS = pa.array(["b", "m"])
_ESCAPED = r'["\\\x00-\x1f]'
"""Characters of a text that JSON escapes."""
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""A number that is written as JSON has it."""
_FLOAT_SIGNS = frozenset(".eEnNiI")


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A column of the answer; the SQL names it ``c0``, ``c1`` …, in this order."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Planned:
    """One SQL text with what its columns mean.

    ``chart`` is a hint for drawing the rows; ``warnings`` go to the caller as they are.
    """

    sql: str
    columns: tuple[OutputColumn, ...]
    chart: dict[str, Any] | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the SQL's answer; what is not scalar is text."""
        return pa.schema([
            pa.field(sql_name(position), _SCALARS.get(each.kind, pa.string()))
            for position, each in enumerate(self.columns)
        ])


def sql_name(position: int) -> str:
    """The name of an output column in the SQL."""
    return f"c{position}"


MAX_PARTS = 100_000
"""Names, constants and operators of a statement: several MB of text, seconds of planning."""


class _DataFusion(Dialect):
    """The SQL of DataFusion: its defaults for nulls, no escapes in texts."""

    NULL_ORDERING = "nulls_are_large"


def to_sql(expression: Expr) -> str:
    """An expression or statement as SQL text for DataFusion 44 and later.

    Raises:
        QueryTooCostlyError: it would be longer than ``MAX_PARTS`` allows, as what is nested in what
            is written several times can be, by us or by the engine.
    """
    if parts(expression) > MAX_PARTS or spread(expression) > MAX_PARTS:
        raise QueryTooCostlyError(
            "this query says too much at once; nest less in each other, or ask in several queries",
            limit=MAX_PARTS,
        )
    return str(expression.sql(dialect=_DataFusion, comments=False))


def parts(expression: Expr) -> int:
    """How many parts the text of an expression has; one that stands in several places counts in
    each, and is looked at once."""
    known: dict[int, int] = {}
    waiting: list[tuple[Expr, bool]] = [(expression, False)]
    while waiting:
        part, entered = waiting.pop()
        if id(part) in known:
            continue
        below = list(part.iter_expressions())
        if entered:
            known[id(part)] = 1 + sum(known[id(child)] for child in below)
        else:
            waiting.append((part, True))
            waiting += [(child, False) for child in below]
    return known[id(expression)]


# -- values -----------------------------------------------------------------------------------


def decode(table: pa.Table, planned: Planned) -> list[tuple[Any, ...]]:
    """Rows of JSON values as the Basic engine gives them.

    Args:
        table: the answer of the SQL, columns in the order of ``planned.columns``.
        planned: what was asked.
    """
    columns = [
        _column(table.column(position), each.kind) for position, each in enumerate(planned.columns)
    ]
    return list(zip(*columns, strict=True)) if columns else [()] * table.num_rows


def column_types(table: pa.Table, planned: Planned) -> tuple[str, ...]:
    """The type name of each column as ``engine.Column`` has it: that of its values, nulls aside;
    whole and broken numbers make ``double``, other mixtures and no value at all ``any``.
    """  # fmt: skip
    return tuple(
        _column_type(table.column(position), each.kind)
        for position, each in enumerate(planned.columns)
    )


def to_arrow(batch: pa.RecordBatch, planned: Planned) -> pa.RecordBatch:
    """A batch for callers: own names, scalars as they are, everything else as JSON text."""
    arrays: list[pa.Array] = []
    for position, each in enumerate(planned.columns):
        values = batch.column(position)
        if (kind := _SCALARS.get(each.kind)) is not None:
            arrays.append(values if values.type == kind else values.cast(kind))
            continue
        arrays.append(_json_texts(values))
    return pa.RecordBatch.from_arrays(arrays, names=[each.name for each in planned.columns])


def _json_texts(tagged: pa.Array) -> pa.Array:
    """Tagged texts as JSON texts; what needs no reading is done for all rows at once."""
    tagged = tagged.cast(pa.string())
    tag = pc.utf8_slice_codeunits(tagged, 0, 1)
    rest = pc.utf8_slice_codeunits(tagged, 1)
    quoted = pc.binary_join_element_wise('"', rest, '"', "")
    plain = pc.invert(pc.match_substring_regex(rest, _ESCAPED))
    texts = pc.and_(pc.is_in(tag, value_set=_TEXT_TAGS), plain)
    ready = pc.or_(
        pc.is_in(tag, value_set=_JSON_TAGS),
        pc.and_(pc.equal(tag, "n"), pc.match_substring_regex(rest, _NUMBER)),
    )
    known = pc.if_else(texts, quoted, pc.if_else(ready, rest, None))
    others = pc.and_(pc.is_valid(tagged), pc.is_null(known))
    if not pc.any(others).as_py():
        return known
    read = [orjson.dumps(value(text)).decode() for text in tagged.filter(others).to_pylist()]
    return pc.replace_with_mask(known, others, pa.array(read, pa.string()))


def _column(values: pa.ChunkedArray, kind: Kind) -> list[Any]:
    if kind == "timestamp":
        moments = values.cast(pa.timestamp("us"), safe=False)
        return pc.strftime(moments, format="%Y-%m-%dT%H:%M:%SZ").to_pylist()
    if kind in _SCALARS:
        return values.cast(_SCALARS[kind]).to_pylist()
    return [None if text is None else value(text) for text in values.to_pylist()]


def _column_type(values: pa.ChunkedArray, kind: Kind) -> str:
    if values.null_count == len(values):
        return "any"
    if kind != "any":
        return _TYPES[kind]
    texts: list[str] = [text for text in values.unique().to_pylist() if text is not None]
    kinds = {_TAG_TYPES.get(text[0], text[0]) for text in texts}
    if "n" in kinds:
        kinds.remove("n")
        broken = {isinstance(value(text), float) for text in texts if text[0] == "n"}
        kinds.add("double" if True in broken else "int64")
    return next(iter(kinds)) if len(kinds) == 1 else "any"


def value(text: str) -> Any:
    """A tagged text as a JSON value."""
    rest = text[1:]
    match text[:1]:
        case "s" | "t" | "k":
            return rest
        case "n":
            return float(rest) if _FLOAT_SIGNS.intersection(rest) else int(rest)
        case "b":
            return rest == "true"
        case "m":
            return orjson.loads(rest)
        case "l":
            return _list(rest)
        case "d":
            items = [unescape(item) for item in rest.split(ITEM)] if rest else []
            return {value(k): value(v) for k, v in zip(items[::2], items[1::2], strict=True)}
        case "N":
            return _node(rest)
        case "R":
            return _edge(rest)
        case "P":
            items = [value(unescape(item)) for item in rest.split(ITEM)]
            return {"nodes": items[::2], "edges": items[1::2]}
        case _:  # z, and nothing at all
            return None


def _list(rest: str) -> list[Any]:
    if f"{MARK}[" in rest:  # a list of mixed types as facts hold it: its JSON text follows
        return orjson.loads(rest[rest.index(f"{MARK}[") + 1 :])
    return [value(unescape(item)) for item in rest.split(ITEM)] if rest else []


def escape(item: str) -> str:
    """A tagged text as an item of a list."""
    return item.replace(MARK, f"{MARK}e").replace(ITEM, f"{MARK}s")


def unescape(item: str) -> str:
    """The inverse of ``escape``."""
    if MARK not in item:
        return item
    return item.replace(f"{MARK}s", ITEM).replace(f"{MARK}e", MARK)


def _node(rest: str) -> dict[str, Any]:
    found = _fields(rest, NODE_FIELDS)
    node: dict[str, Any] = {
        "id": found["id"],
        "labels": [name for name in found["label_set"].split("\x1f") if name],
        "realm": found["realm"],
        "name": found["name"],
        "properties": _without_nulls(found["props"]),
        "source": {key: found[key] for key in ("connector", "source_id", "external_id")},
    }
    node |= {
        key: found[key] for key in ("first_seen", "last_seen", "archived_at") if found[key]
    }  # as the API's records give it: RFC 3339 in UTC
    node["content_hash"] = found["content_hash"]
    return node


def _edge(rest: str) -> dict[str, Any]:
    found = _fields(rest, EDGE_FIELDS)
    edge: dict[str, Any] = {key: found[key] for key in ("id", "src", "dst", "type", "realm")}
    return edge | {"properties": _without_nulls(found["props"])}


def _fields(rest: str, names: Sequence[str]) -> dict[str, str]:
    return dict(zip(names, rest.split(FIELD), strict=True))


def _without_nulls(text: str) -> dict[str, Any]:
    properties = cast("dict[str, Any]", orjson.loads(text)) if text else {}
    return {key: each for key, each in properties.items() if each is not None}
