"""From entities and their documents to the rows that are embedded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any

import orjson
import pyarrow as pa

from agentcy_ray.core.batches import CHUNKS
from agentcy_ray.retrieval.canonical import canonical_text
from agentcy_ray.retrieval.chunking import Chunker

MAX_HIT_VALUE_CHARS = 400
"""Longer property values are not repeated beside every chunk; the Context Engine has them."""

Document = dict[str, Any]


def chunk_batch(
    nodes: pa.RecordBatch, documents: pa.RecordBatch | None, chunker: Chunker, *, seen_at: datetime
) -> pa.RecordBatch:
    """All chunks of ``nodes``: of the canonical text first, then of their documents.

    CPU-bound; the splitter works outside the interpreter lock, so call it on a thread.

    Args:
        nodes: rows of ``NODES``.
        documents: rows of ``DOCUMENTS``; those of other nodes are ignored.
        chunker: cuts the texts.
        seen_at: when the nodes were last seen; a document's own time of change comes first.

    Returns:
        Rows of ``CHUNKS``, in the order of ``nodes``; the same input gives the same keys.
    """
    bodies: defaultdict[str, list[Document]] = defaultdict(list)
    for document in documents.to_pylist() if documents is not None else ():
        bodies[document["node_id"]].append(document)
    made = _Made()
    of_node = nodes.select(["id", "labels", "name", "properties"]).to_pydict()
    for place, (node_id, labels, name, properties) in enumerate(
        zip(*of_node.values(), strict=True)
    ):
        values: dict[str, Any] = orjson.loads(properties)
        made.shown.append(_shown(properties, values))
        documents_of = bodies.get(node_id)
        _cut(made, place, node_id, labels, name, values, documents_of, chunker, seen_at)
    return made.batch(nodes)


def chunk_key(node_id: str, ordinal: int, text: str) -> str:
    """Key of a chunk: hexadecimal BLAKE2b-128 over node, place in the node and text."""
    return blake2b(f"{node_id}\x00{ordinal}\x00{text}".encode(), digest_size=16).hexdigest()


@dataclass
class _Made:
    """Chunks as columns; what they share with their node is taken from it at the end."""

    places: list[int] = field(default_factory=lambda: list[int]())
    keys: list[str] = field(default_factory=lambda: list[str]())
    texts: list[str] = field(default_factory=lambda: list[str]())
    urls: list[str | None] = field(default_factory=lambda: list[str | None]())
    times: list[datetime] = field(default_factory=lambda: list[datetime]())
    shown: list[str] = field(default_factory=lambda: list[str]())
    """Properties of each node, as a hit shows them."""

    def batch(self, nodes: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of ``CHUNKS``."""
        at = pa.array(self.places, pa.int64())
        own: dict[str, pa.Array] = {
            "chunk_key": pa.array(self.keys, pa.string()),
            "text": pa.array(self.texts, pa.string()),
            "url": pa.array(self.urls, pa.string()),
            "seen_at": pa.array(self.times, CHUNKS.field("seen_at").type),
            "properties": pa.array(self.shown, pa.string()).take(at),
        }
        columns = [
            own[name] if name in own else nodes.column("id" if name == "node_id" else name).take(at)
            for name in CHUNKS.names
        ]
        return pa.RecordBatch.from_arrays(columns, schema=CHUNKS)


def _cut(
    made: _Made,
    place: int,
    node_id: str,
    labels: list[str],
    name: str,
    properties: dict[str, Any],
    documents: list[Document] | None,
    chunker: Chunker,
    seen_at: datetime,
) -> None:
    """Add the chunks of one node: of its canonical text, then of its documents."""
    own_url = properties.get("url")
    url = own_url if isinstance(own_url, str) else None
    pieces = [
        (text, url, seen_at) for text in chunker.chunk(canonical_text(labels, name, properties))
    ]
    for document in documents or ():
        at = document["modified_at"] or seen_at
        chunks = chunker.chunk(document["text"], document["media_type"])
        pieces += [(text, document["url"] or url, at) for text in chunks]
    for ordinal, (text, at_url, at) in enumerate(pieces):
        made.places.append(place)
        made.keys.append(chunk_key(node_id, ordinal, text))
        made.texts.append(text)
        made.urls.append(at_url)
        made.times.append(at)


def _shown(raw: str, properties: dict[str, Any]) -> str:
    """The properties that a hit shows, as JSON; most are short and stay as they are."""
    if len(raw) <= MAX_HIT_VALUE_CHARS and "null" not in raw and "\\u0000" not in raw:
        return raw
    return orjson.dumps(_hit_properties(properties)).decode()


def _hit_properties(properties: dict[str, Any]) -> dict[str, Any]:
    """What a hit shows and a filter can exclude by; texts are cut, large values left out."""
    kept: dict[str, Any] = {}
    for key, value in properties.items():
        if isinstance(value, str):
            kept[key] = value[:MAX_HIT_VALUE_CHARS].replace("\x00", "")
        elif value is not None and len(orjson.dumps(value)) <= MAX_HIT_VALUE_CHARS:
            kept[key] = value
    return kept
