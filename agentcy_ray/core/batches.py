"""Arrow schemas of everything that moves in bulk.

Two families. What a connector yields names ends by (label, external id) and knows nothing of
organisations (``SOURCE_*``); since a realm is part of an identity, each row may name the realm of
the nodes it speaks of. What a package holds and a store receives is addressed: ids and content
hashes are computed once, when the package is written (``NODES``, ``EDGES``, ``DOCUMENTS``).

``properties`` is JSON text in both: property names differ by source, and a column for each would
make a schema for each. Times are UTC microseconds.
"""

from __future__ import annotations

import pyarrow as pa

_TEXT = pa.string()
_LABELS = pa.list_(pa.string())
_TIME = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SOURCE_NODES = pa.schema([
    _required("labels", _LABELS),  # first = primary label, part of the identity
    _required("external_id", _TEXT),
    pa.field("name", _TEXT),
    _required("properties", _TEXT),  # JSON object
    pa.field("realm", _TEXT),  # null = the source's realm
])
"""Entities as a connector yields them."""

SOURCE_EDGES = pa.schema([
    _required("src_label", _TEXT),
    _required("src_external_id", _TEXT),
    _required("type", _TEXT),  # UPPER_SNAKE
    _required("dst_label", _TEXT),
    _required("dst_external_id", _TEXT),
    pa.field("src_realm", _TEXT),  # null = the source's realm
    pa.field("dst_realm", _TEXT),  # null = the source's realm
    _required("properties", _TEXT),  # JSON object
])
"""Relationships as a connector yields them."""

SOURCE_DOCUMENTS = pa.schema([
    _required("label", _TEXT),
    _required("external_id", _TEXT),
    _required("text", _TEXT),
    _required("media_type", _TEXT),  # text/markdown, text/x-python, text/plain, …
    pa.field("url", _TEXT),
    pa.field("modified_at", _TIME),
    pa.field("realm", _TEXT),  # null = the source's realm
])
"""Bodies to be chunked and embedded; each belongs to the node with that label and external id."""

SOURCE_TOMBSTONES = pa.schema([
    _required("label", _TEXT),
    _required("external_id", _TEXT),
    pa.field("realm", _TEXT),  # null = the source's realm
])
"""Entities that an incremental extract reports as gone, with their edges and documents."""

SOURCE_EDGE_TOMBSTONES = pa.schema([
    _required("src_label", _TEXT),
    _required("src_external_id", _TEXT),
    _required("type", _TEXT),
    _required("dst_label", _TEXT),
    _required("dst_external_id", _TEXT),
    pa.field("src_realm", _TEXT),  # null = the source's realm
    pa.field("dst_realm", _TEXT),  # null = the source's realm
])
"""Relationships that an incremental extract reports as gone while both of their ends stay."""

SOURCE_DOCUMENT_TOMBSTONES = pa.schema([
    _required("label", _TEXT),
    _required("external_id", _TEXT),
    pa.field("realm", _TEXT),  # null = the source's realm
])
"""Bodies that an incremental extract reports as gone while their node stays."""

SOURCE_SCHEMAS: dict[str, pa.Schema] = {
    "nodes": SOURCE_NODES,
    "edges": SOURCE_EDGES,
    "documents": SOURCE_DOCUMENTS,
    "tombstones": SOURCE_TOMBSTONES,
    "edge_tombstones": SOURCE_EDGE_TOMBSTONES,
    "document_tombstones": SOURCE_DOCUMENT_TOMBSTONES,
}
"""The schema of each kind of batch that a connector yields."""

NODES = pa.schema([
    _required("id", _TEXT),
    _required("labels", _LABELS),
    _required("realm", _TEXT),
    _required("name", _TEXT),
    _required("properties", _TEXT),
    _required("connector", _TEXT),
    _required("source_id", _TEXT),  # hexadecimal UUID without dashes
    _required("external_id", _TEXT),
    _required("content_hash", _TEXT),  # hexadecimal BLAKE2b-128
])
"""Entities of a package."""

EDGES = pa.schema([
    _required("id", _TEXT),
    _required("src", _TEXT),
    _required("dst", _TEXT),
    _required("type", _TEXT),
    _required("realm", _TEXT),
    _required("properties", _TEXT),
    _required("source_id", _TEXT),
    _required("content_hash", _TEXT),
])
"""Relationships of a package."""

DOCUMENTS = pa.schema([
    _required("node_id", _TEXT),
    _required("text", _TEXT),
    _required("media_type", _TEXT),
    pa.field("url", _TEXT),
    pa.field("modified_at", _TIME),
    _required("content_hash", _TEXT),
])
"""Bodies of a package."""

TOMBSTONES = pa.schema([_required("kind", _TEXT), _required("id", _TEXT)])
"""Rows that a delta package archives: kind is ``node``, ``edge`` or ``document``."""

CHUNKS = pa.schema([
    _required("chunk_key", _TEXT),  # hash(node, ordinal, text)
    _required("node_id", _TEXT),
    _required("realm", _TEXT),
    _required("labels", _LABELS),
    _required("source_id", _TEXT),
    _required("name", _TEXT),
    _required("text", _TEXT),
    pa.field("url", _TEXT),
    _required("properties", _TEXT),
    _required("connector", _TEXT),
    _required("external_id", _TEXT),
    pa.field("seen_at", _TIME),
])
"""Texts to be embedded; the vectors travel beside them as a fixed-size list column."""

EVENTS = pa.schema([
    _required("at", _TIME),
    _required("label", _TEXT),
    pa.field("body", _TEXT),
    _required("properties", _TEXT),  # JSON object
    _required("realm", _TEXT),
    _required("pipeline_id", _TEXT),  # hexadecimal UUID without dashes
    _required("event_id", _TEXT),  # unique within the pipeline; the same event again has the same
    pa.field("service", _TEXT),
    pa.field("severity", _TEXT),
    pa.field("trace_id", _TEXT),
    pa.field("span_id", _TEXT),
    pa.field("duration_ms", pa.float64()),
])
"""Things that happened once, at a time: never changed, never archived."""


def vectors_field(dim: int) -> pa.Field:
    """The ``embedding`` column: fixed-size list of ``dim`` float32, never Python floats."""
    return pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False)
