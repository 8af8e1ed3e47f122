"""How entities lie in the graph: labels, reserved properties, and what cannot lie there as it is.

A node carries the label ``Entity`` and its own. Properties keep their names, except that one that
is reserved gets a trailing underscore, and one that begins with ``@`` a leading one. A value that
a property graph cannot hold (a map, a list of mixed types, an integer beyond 64 bits) is stored as
JSON text, and ``_json`` lists such properties, so that they come back as they went in.
Nulls are absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import orjson
import pyarrow as pa

from agentcy_ray.context.engine import Edge, Node, SourceRef
from agentcy_ray.context.languages.cypher.render import quote
from agentcy_ray.core.errors import InvalidError

ENTITY = "Entity"

NODE_RESERVED = frozenset({
    "id", "org", "realm", "name", "source_id", "connector", "external_id",
    "first_seen", "last_seen", "archived_at", "content_hash", "_labels", "_text", "_json", "",
})  # fmt: skip
EDGE_RESERVED = frozenset({
    "id", "org", "realm", "source_id",
    "first_seen", "last_seen", "archived_at", "content_hash", "_src", "_dst", "_json", "",
})  # fmt: skip

INDEXED_CHARS = 1_500
"""Longest text put into an index: Neo4j refuses keys of more than about 8,000 bytes."""
SEARCH_CHARS = 8_000
"""Longest ``_text``: the case-folded name and text properties that search looks into."""

MAX_ROW_BYTES = 12 * 1024 * 1024
"""Largest entity: the embedded server takes messages of 16 MiB."""

_SCALARS = (str, bool, int, float)
_INT64 = range(-(2**63), 2**63)

Properties = dict[str, Any]


def stamp(moment: datetime) -> str:
    """RFC 3339 text of fixed width in UTC. Servers differ in what they make of a datetime with a
    zone (the embedded one drops the zone), while text sorts and compares alike on all of them.
    """  # fmt: skip
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment(text: str | None) -> datetime | None:
    """The inverse of ``stamp``."""
    return None if text is None else datetime.fromisoformat(text)


def name_of(kind: str, name: str) -> str:
    """A label or edge type, quoted.

    Raises:
        InvalidError: it cannot be stored; connectors choose labels, so they must change it.
    """
    if len(name) > 200 or "~" in name:  # the embedded server joins labels by a tilde
        raise InvalidError(f"{name[:50]!r} cannot be a {kind}; use letters, digits and underscores")
    try:
        return quote(name)
    except ValueError as error:
        raise InvalidError(
            f"{name!r} cannot be a {kind}; use letters, digits and underscores"
        ) from error


# -- towards the server -----------------------------------------------------------------------


def node_rows(org_id: UUID, batch: pa.RecordBatch, seen_at: datetime) -> list[Properties]:
    """Property maps of a ``NODES`` batch, ready for ``SET n = row``; a later row wins over an
    earlier one of the same id.

    Raises:
        InvalidError: ``properties`` of a row is no JSON object.
    """  # fmt: skip
    org, seen = org_id.hex, stamp(seen_at)
    rows: dict[str, Properties] = {}
    for id_, labels, realm, name, text, connector, source, external, digest in zip(
        *_columns(batch, "id", "labels", "realm", "name", "properties", "connector", "source_id",
                  "external_id", "content_hash"),
        strict=True,
    ):  # fmt: skip
        properties = read_json(id_, text)
        row = _stored(properties, NODE_RESERVED)
        row |= {
            "id": id_,
            "org": org,
            "realm": realm,
            "name": name[:INDEXED_CHARS],
            "source_id": source,
            "connector": connector,
            "external_id": external[:INDEXED_CHARS],
            "first_seen": seen,
            "last_seen": seen,
            "content_hash": digest,
            "_labels": labels,
            "_text": search_text(name, properties),
        }
        rows[id_] = _bounded(row)
    return list(rows.values())


def edge_rows(
    org_id: UUID, batch: pa.RecordBatch, seen_at: datetime
) -> dict[str, dict[str, Properties]]:
    """Property maps of an ``EDGES`` batch: edge type → id → row."""
    org, seen = org_id.hex, stamp(seen_at)
    groups: dict[str, dict[str, Properties]] = {}
    for id_, src, dst, type_, realm, text, source, digest in zip(
        *_columns(batch, "id", "src", "dst", "type", "realm", "properties", "source_id",
                  "content_hash"),
        strict=True,
    ):  # fmt: skip
        row = _stored(read_json(id_, text), EDGE_RESERVED)
        row |= {
            "id": id_,
            "org": org,
            "realm": realm,
            "source_id": source,
            "first_seen": seen,
            "last_seen": seen,
            "content_hash": digest,
            "_src": src,
            "_dst": dst,
        }
        groups.setdefault(type_, {})[id_] = _bounded(row)
    return groups


def weigh(row: Properties) -> int:
    """Roughly how many characters a row holds."""
    total = 0
    for value in row.values():
        kind = type(value)
        if kind is str:
            total += len(value)
        elif kind is list:
            total += sum(len(each) if type(each) is str else 9 for each in value)
    return total


def _bounded(row: Properties) -> Properties:
    if weigh(row) > MAX_ROW_BYTES // 4 and len(orjson.dumps(row)) > MAX_ROW_BYTES:
        raise InvalidError(
            f"the properties of {row['id']} are larger than {MAX_ROW_BYTES >> 20} MiB; "
            "shorten them, or give the text as a document instead"
        )
    return row


def _columns(batch: pa.RecordBatch, *names: str) -> list[list[Any]]:
    return [batch.column(name).to_pylist() for name in names]


def read_json(id_: str, text: str) -> Properties:
    """The properties of an entity.

    Raises:
        InvalidError: they are no JSON object; names the entity.
    """
    try:
        properties = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidError(f"the properties of {id_} are not JSON: {error}") from error
    if not isinstance(properties, dict):
        raise InvalidError(f"the properties of {id_} are not a JSON object")
    return cast("Properties", properties)


def _stored(properties: Properties, reserved: frozenset[str]) -> Properties:
    row: Properties = {}
    nested: list[str] = []
    for name, value in properties.items():
        if value is None:
            continue
        key = f"{name}_" if _is_taken(name, value, reserved) else name
        if key.lstrip("_").startswith("@"):  # the embedded server keeps such names for itself
            key = f"_{key}"
        if _fits(value):
            row[key] = value
        else:
            row[key] = orjson.dumps(value).decode()
            nested.append(key)
    if nested:
        row["_json"] = nested
    return row


def _is_taken(name: str, value: Any, reserved: frozenset[str]) -> bool:
    """Whether the name gets an underscore: it is reserved, or a ``url`` too long for its index."""
    base = name.rstrip("_")
    if base != "url":
        return base in reserved
    return name != "url" or (isinstance(value, str) and len(value) > INDEXED_CHARS)


def _fits(value: Any) -> bool:
    """Whether a property graph holds the value as it is: a scalar, or a list of one scalar type."""
    kind = type(value)
    if kind is int:
        return value in _INT64
    if kind is list:
        kinds = {type(each) for each in value}
        if len(kinds) > 1 or not kinds <= set(_SCALARS):
            return False
        return kinds != {int} or all(each in _INT64 for each in value)
    return kind in _SCALARS


def search_text(name: str, properties: Properties) -> str:
    """What full-text search looks into: the name and the texts, case-folded and bounded."""
    parts = [name]
    room = SEARCH_CHARS - len(name)
    waiting: list[Any] = list(reversed(properties.values()))
    while waiting and room > 0:
        value = waiting.pop()
        if isinstance(value, str):
            parts.append(value[:room])
            room -= len(value) + 1
        elif isinstance(value, list):
            waiting.extend(reversed(cast("list[Any]", value)))
        elif isinstance(value, dict):
            waiting.extend(reversed(cast("dict[str, Any]", value).values()))
    return "\n".join(parts).casefold()[:SEARCH_CHARS]


# -- from the server --------------------------------------------------------------------------


def _loaded(stored: Mapping[str, Any], reserved: frozenset[str]) -> Properties:
    nested = frozenset(cast("list[str]", stored.get("_json") or ()))
    properties: Properties = {}
    for key, value in stored.items():
        if key in reserved:
            continue
        base = key.rstrip("_")
        escaped = key.endswith("_") and (base in reserved or base == "url")
        name = key[:-1] if escaped else key
        if name.lstrip("_").startswith("@"):
            name = name[1:]
        properties[name] = orjson.loads(value) if key in nested else value
    return properties


def to_node(stored: Mapping[str, Any], degree: int | None = None) -> Node:
    """A node from its stored properties."""
    return Node(
        id=stored["id"],
        labels=tuple(stored["_labels"]),
        realm=stored["realm"],
        name=stored["name"],
        properties=_loaded(stored, NODE_RESERVED),
        source=SourceRef(
            connector=stored["connector"],
            source_id=stored["source_id"],
            external_id=stored["external_id"],
        ),
        first_seen=moment(stored.get("first_seen")),
        last_seen=moment(stored.get("last_seen")),
        archived_at=moment(stored.get("archived_at")),
        content_hash=stored["content_hash"],
        degree=degree,
    )


def to_edge(stored: Mapping[str, Any], type_: str) -> Edge:
    """An edge from its stored properties."""
    return Edge(
        id=stored["id"],
        src=stored["_src"],
        dst=stored["_dst"],
        type=type_,
        realm=stored["realm"],
        properties=_loaded(stored, EDGE_RESERVED),
    )
