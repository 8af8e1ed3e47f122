"""From entities and their documents to the rows that are embedded."""

from __future__ import annotations

from collections import defaultdict
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
    rows: list[dict[str, Any]] = []
    for node in nodes.to_pylist():
        rows += _node_rows(node, bodies.get(node["id"], []), chunker, seen_at)
    return pa.RecordBatch.from_pylist(rows, schema=CHUNKS)


def chunk_key(node_id: str, ordinal: int, text: str) -> str:
    """Key of a chunk: hexadecimal BLAKE2b-128 over node, place in the node and text."""
    digest = blake2b(f"{node_id}\x00{ordinal}\x00".encode(), digest_size=16)
    digest.update(text.encode())
    return digest.hexdigest()


def _node_rows(
    node: dict[str, Any], documents: list[Document], chunker: Chunker, seen_at: datetime
) -> list[dict[str, Any]]:
    properties: dict[str, Any] = orjson.loads(node["properties"])
    canonical = canonical_text(node["labels"], node["name"], properties)
    own_url = properties.get("url")
    url = own_url if isinstance(own_url, str) else None
    pieces = [(text, url, seen_at) for text in chunker.chunk(canonical)]
    for document in documents:
        at = document["modified_at"] or seen_at
        chunks = chunker.chunk(document["text"], document["media_type"])
        pieces += [(text, document["url"] or url, at) for text in chunks]
    shared = {
        "node_id": node["id"],
        "realm": node["realm"],
        "labels": node["labels"],
        "source_id": node["source_id"],
        "name": node["name"],
        "properties": orjson.dumps(_hit_properties(properties)).decode(),
        "connector": node["connector"],
        "external_id": node["external_id"],
    }
    return [
        shared | {"chunk_key": chunk_key(node["id"], i, text), "text": text, "url": at_url,
                  "seen_at": at}
        for i, (text, at_url, at) in enumerate(pieces)
    ]  # fmt: skip


def _hit_properties(properties: dict[str, Any]) -> dict[str, Any]:
    """What a hit shows and a filter can exclude by; texts are cut, large values left out."""
    kept: dict[str, Any] = {}
    for key, value in properties.items():
        if isinstance(value, str):
            kept[key] = value[:MAX_HIT_VALUE_CHARS].replace("\x00", "")
        elif value is not None and len(orjson.dumps(value)) <= MAX_HIT_VALUE_CHARS:
            kept[key] = value
    return kept
