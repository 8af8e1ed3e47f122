"""Embedding what changed, beside the writes into the engine.

Three stages run at once, each a bounded number of items ahead: chunking on a thread, the embedder,
and the writes into the vector table. A chunk whose key is there already is not computed again, so a
publish that resumes, or text that only moved, costs no vector.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from agentcy_ray.core.batches import DOCUMENTS, NODES
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.fence import Lease
from agentcy_ray.ingest.graph_publish import Probe
from agentcy_ray.ingest.pipeline import ahead, buffered
from agentcy_ray.ingest.progress import Meter
from agentcy_ray.ingest.texts import Texts, TextWindow
from agentcy_ray.retrieval.passages import chunk_batch

if TYPE_CHECKING:
    from agentcy_ray.retrieval.chunking import Chunker
    from agentcy_ray.retrieval.embedder import Embedder, Vectors
    from agentcy_ray.retrieval.index import VectorIndex
    from agentcy_ray.retrieval.spaces import Space

PART = "vectors"
GROUP_TEXTS = 1024
"""Texts per embedder call: enough to sort by length and fill batches, little to lose."""
GROUPS_AHEAD = 2


@dataclass
class VectorCounts:
    """What was made."""

    chunks: int = 0
    embedded: int = 0


@dataclass(frozen=True)
class _Chunked:
    """A window with its chunks."""

    window: TextWindow
    chunks: pa.RecordBatch
    missing: pa.RecordBatch
    """Chunks that the table does not hold yet."""
    touched: pa.RecordBatch
    """Chunks of nodes whose properties alone changed."""


@dataclass(frozen=True)
class _Embedded:
    """A group of chunks with their vectors; ``done`` is the window that it completes."""

    chunks: pa.RecordBatch | None
    vectors: Vectors | None
    done: _Chunked | None


@dataclass(frozen=True)
class VectorPublisher:
    """Publishes the texts of one difference into one space."""

    index: VectorIndex
    space: Space
    embedder: Embedder
    chunker: Chunker
    lease: Lease
    texts: Texts
    meter: Meter
    at: datetime
    probe: Probe

    async def run(self, cursor: dict[str, Any], total: int) -> VectorCounts:
        """Embed and write everything from ``cursor`` on.

        Args:
            cursor: ``{after, chunks, embedded}`` that an earlier attempt saved, or empty.
            total: nodes to be chunked in the whole publish, for progress.

        Raises:
            LeaseLostError: a newer owner publishes.
            EmbedderUnavailableError, StoreUnavailableError: the publish can be resumed.
        """
        track = self.meter.start("embed", "nodes", total)
        counts = VectorCounts(cursor.get("chunks", 0), cursor.get("embedded", 0))
        async with aclosing(buffered(self._embedded(cursor.get("after")), GROUPS_AHEAD)) as groups:
            async for group in groups:
                async with self.lease.hold() as connection:
                    if group.chunks is not None and group.vectors is not None:
                        await self.index.upsert(self.space, group.chunks, group.vectors)
                        counts.embedded += group.chunks.num_rows
                    if group.done is not None:
                        await self._finish(group.done)
                        counts.chunks += group.done.chunks.num_rows
                        saved = {
                            "after": group.done.window.last,
                            "chunks": counts.chunks,
                            "embedded": counts.embedded,
                        }
                        await self.lease.save(connection, PART, saved)
                if group.done is not None:
                    self.meter.add(track, group.done.window.nodes.num_rows)
                self.probe("vectors_batch")
        self.meter.end(track)
        return counts

    async def _finish(self, chunked: _Chunked) -> None:
        """Drop the chunks that a window made stale, and hide those of nodes that are gone."""
        window = chunked.window
        if chunked.touched.num_rows:
            await self.index.refresh_nodes(self.space, chunked.touched)
        if window.nodes.num_rows:
            ids = window.nodes["id"].to_pylist()
            keys = chunked.chunks["chunk_key"].to_pylist()
            await self.index.replace_node_chunks(self.space, ids, keys)
        if len(window.gone):
            await self.index.archive_nodes(self.space, window.gone.to_pylist(), self.at)

    async def _embedded(self, after: str | None) -> AsyncGenerator[_Embedded]:
        async with aclosing(buffered(self._chunked(after), 1)) as windows:
            async for chunked in windows:
                for group in _by_length(chunked.missing):
                    vectors = await self.embedder.embed(group["text"].to_pylist())
                    yield _Embedded(group, vectors, None)
                yield _Embedded(None, None, chunked)

    async def _chunked(self, after: str | None) -> AsyncGenerator[_Chunked]:
        async with aclosing(ahead(self._windows(after), 1)) as windows:
            async for window, chunks, touched in windows:
                there: set[str] = set()
                if chunks.num_rows:
                    async with self.lease.hold():  # revives what an earlier state left hidden
                        await self.index.refresh(self.space, chunks)
                    ids = window.nodes["id"].to_pylist()
                    there = await self.index.existing_keys(self.space, ids)
                mask = pc.is_in(chunks["chunk_key"], value_set=pa.array(sorted(there), pa.string()))
                yield _Chunked(window, chunks, chunks.filter(pc.invert(mask)), touched)

    def _windows(
        self, after: str | None
    ) -> Iterator[tuple[TextWindow, pa.RecordBatch, pa.RecordBatch]]:
        for window in self.texts.windows(after=after):
            nodes, touched = _one(window.nodes, NODES), _one(window.touched, NODES)
            documents = _one(window.documents, DOCUMENTS)
            yield (
                window,
                chunk_batch(nodes, documents, self.chunker, seen_at=self.at),
                chunk_batch(touched, None, self.chunker, seen_at=self.at),
            )


def _by_length(chunks: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Groups of texts of like length: padding dominates the cost of embedding."""
    if not chunks.num_rows:
        return
    lengths = pc.utf8_length(chunks["text"]).to_numpy(zero_copy_only=False)
    ordered = chunks.take(pa.array(np.argsort(lengths, kind="stable")))
    for start in range(0, ordered.num_rows, GROUP_TEXTS):
        yield ordered.slice(start, GROUP_TEXTS)


def _one(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    table = table.select(schema.names).combine_chunks().cast(schema)
    batches = table.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)
