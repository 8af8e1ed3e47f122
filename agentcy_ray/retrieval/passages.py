"""From entities and their documents to the rows that are embedded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import orjson
import pyarrow as pa

from agentcy_ray.core.batches import CHUNKS
from agentcy_ray.retrieval.canonical import canonical_text
from agentcy_ray.retrieval.chunking import Chunker

MAX_HIT_VALUE_CHARS = 400
"""Longer property values are not repeated beside every chunk; the Context Engine has them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

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
    made = _Made(default=_micros(seen_at))
    own = nodes.select(["id", "name", "properties"]).to_pydict()
    for place, (labels, node_id, name, properties) in enumerate(
        zip(_lists(nodes.column("labels")), *own.values(), strict=True)
    ):
        values: dict[str, Any] = orjson.loads(properties)
        made.shown.append(_shown(properties, values))
        documents_of = bodies.get(node_id)
        _cut(made, place, node_id, labels, name, values, documents_of, chunker)
    return made.batch(nodes)


def chunk_key(node_id: str, ordinal: int, text: str) -> str:
    """Key of a chunk: hexadecimal BLAKE2b-128 over node, place in the node and text."""
    return blake2b(f"{node_id}\x00{ordinal}\x00{text}".encode(), digest_size=16).hexdigest()


@dataclass
class _Made:
    """Chunks as columns; what they share with their node is taken from it at the end."""

    default: int
    """Time of what has none of its own: microseconds of Unix time."""
    places: list[int] = field(default_factory=lambda: list[int]())
    keys: list[str] = field(default_factory=lambda: list[str]())
    texts: list[str] = field(default_factory=lambda: list[str]())
    urls: list[str | None] = field(default_factory=lambda: list[str | None]())
    times: list[int] = field(default_factory=lambda: list[int]())
    shown: list[str] = field(default_factory=lambda: list[str]())
    """Properties of each node, as a hit shows them."""

    def add(
        self, place: int, node_id: str, first: int, texts: list[str], url: str | None, at: int
    ) -> int:
        """Add chunks of one text of a node, numbered from ``first``; returns the next number."""
        for text in texts:
            self.places.append(place)
            self.keys.append(chunk_key(node_id, first, text))
            self.texts.append(text)
            self.urls.append(url)
            self.times.append(at)
            first += 1
        return first

    def batch(self, nodes: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of ``CHUNKS``."""
        at = pa.array(self.places, pa.int64())
        own: dict[str, pa.Array] = {
            "chunk_key": pa.array(self.keys, pa.string()),
            "text": pa.array(self.texts, pa.string()),
            "url": pa.array(self.urls, pa.string()),
            "seen_at": pa.array(self.times, pa.int64()).cast(CHUNKS.field("seen_at").type),
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
) -> None:
    """Add the chunks of one node: of its canonical text, then of its documents."""
    own_url = properties.get("url")
    url = own_url if isinstance(own_url, str) else None
    texts = chunker.chunk(canonical_text(labels, name, properties))
    ordinal = made.add(place, node_id, 0, texts, url, made.default)
    for document in documents or ():
        changed = document["modified_at"]
        at = made.default if changed is None else _micros(changed)
        texts = chunker.chunk(document["text"], document["media_type"])
        ordinal = made.add(place, node_id, ordinal, texts, document["url"] or url, at)


def _lists(column: pa.ListArray) -> list[list[str]]:
    """The lists of a column; a fifth of the time that Arrow takes for the same."""
    values: list[str] = column.flatten().to_pylist()
    ends: list[int] = column.offsets.to_pylist()
    first = ends[0] if ends else 0
    return [values[start - first : end - first] for start, end in pairwise(ends)]


def _micros(moment: datetime) -> int:
    """Microseconds of Unix time, without the rounding of a float."""
    return (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND


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
