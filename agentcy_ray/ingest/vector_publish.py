"""Embedding what changed, beside the writes into the engine.

Three stages run at once, each a bounded number of items ahead: chunking on a thread, the embedder,
and the writes into the vector table. A chunk whose key is there already is not computed again, so a
publish that resumes, or text that only moved, costs no vector. While a model is changed there are
several spaces; a text is cut once for all of them, and embedded by the model of each.
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
_BEGUN = {"chunks": 0, "embedded": 0}


@dataclass
class VectorCounts:
    """What was made."""

    chunks: int = 0
    embedded: int = 0


@dataclass(frozen=True)
class Target:
    """A space that is written, with the model that fills it."""

    space: Space
    embedder: Embedder

    @property
    def name(self) -> str:
        """Its key among the cursors of a publish."""
        return self.space.id.hex


@dataclass(frozen=True)
class _Chunked:
    """A window with its chunks."""

    window: TextWindow
    chunks: pa.RecordBatch
    touched: pa.RecordBatch
    """Chunks of nodes whose properties alone changed."""
    missing: tuple[tuple[Target, pa.RecordBatch], ...]
    """The spaces that are to have the window, each with the chunks that it does not hold yet."""


@dataclass(frozen=True)
class _Embedded:
    """A group of chunks with the vectors of one space."""

    space: Space
    chunks: pa.RecordBatch
    vectors: Vectors


@dataclass(frozen=True)
class VectorPublisher:
    """Publishes the texts of one difference into spaces whose texts are cut alike."""

    index: VectorIndex
    targets: tuple[Target, ...]
    """Each window is written to them in this order: what a later one holds and the first does not
    is on its way out (``ingest/swap/coverage.py`` counts on it)."""
    chunker: Chunker
    lease: Lease
    texts: Texts
    meter: Meter
    at: datetime
    probe: Probe

    async def run(self, cursors: dict[str, Any], total: int) -> VectorCounts:
        """Embed and write everything that a space lacks.

        Args:
            cursors: ``{after, chunks, embedded}`` by space, as an earlier attempt saved them; they
                are brought up to date. A space that is not among them is written from the start.
            total: nodes to be chunked in the whole publish, for progress.

        Returns:
            Chunks of the first space, and what was embedded for all of them.

        Raises:
            LeaseLostError: a newer owner publishes.
            EmbedderUnavailableError, StoreUnavailableError: the publish can be resumed.
        """
        track = self.meter.start("embed", "nodes", total)
        before = [cursors.get(target.name, {}).get("after") for target in self.targets]
        after = None if None in before else min(before)
        async with aclosing(buffered(self._embedded(after, dict(cursors)), GROUPS_AHEAD)) as groups:
            async for group in groups:
                async with self.lease.hold() as connection:
                    if isinstance(group, _Embedded):
                        await self.index.upsert(group.space, group.chunks, group.vectors)
                    else:
                        await self._finish(group, cursors)
                        await self.lease.save(connection, PART, cursors)
                if isinstance(group, _Chunked):
                    self.meter.add(track, group.window.nodes.num_rows)
                self.probe("vectors_batch")
        self.meter.end(track)
        done = [cursors.get(target.name, _BEGUN) for target in self.targets]
        return VectorCounts(done[0]["chunks"], sum(each["embedded"] for each in done))

    async def _finish(self, chunked: _Chunked, cursors: dict[str, Any]) -> None:
        """Drop the chunks that a window made stale, and hide those of nodes that are gone."""
        window = chunked.window
        for target, missing in chunked.missing:
            space = target.space
            if chunked.touched.num_rows:
                await self.index.refresh_nodes(space, chunked.touched)
            if window.nodes.num_rows:
                ids = window.nodes["id"].to_pylist()
                keys = chunked.chunks["chunk_key"].to_pylist()
                await self.index.replace_node_chunks(space, ids, keys)
            if len(window.gone):
                await self.index.archive_nodes(space, window.gone.to_pylist(), self.at)
            sofar = cursors.get(target.name, _BEGUN)
            cursors[target.name] = {
                "after": window.last,
                "chunks": sofar["chunks"] + chunked.chunks.num_rows,
                "embedded": sofar["embedded"] + missing.num_rows,
            }

    async def _embedded(
        self, after: str | None, cursors: dict[str, Any]
    ) -> AsyncGenerator[_Embedded | _Chunked]:
        async with aclosing(buffered(self._chunked(after, cursors), 1)) as windows:
            async for chunked in windows:
                for target, missing in chunked.missing:
                    for group in _by_length(missing):
                        vectors = await target.embedder.embed(group["text"].to_pylist())
                        yield _Embedded(target.space, group, vectors)
                yield chunked

    async def _chunked(
        self, after: str | None, cursors: dict[str, Any]
    ) -> AsyncGenerator[_Chunked]:
        """Windows behind ``after``; a space that has one of them already is left out of it."""
        async with aclosing(ahead(self._windows(after), 1)) as windows:
            async for window, chunks, touched in windows:
                missing = [
                    (target, await self._missing(target.space, window, chunks))
                    for target in self.targets
                    if (cursors.get(target.name, {}).get("after") or "") < window.last
                ]
                yield _Chunked(window, chunks, touched, tuple(missing))

    async def _missing(
        self, space: Space, window: TextWindow, chunks: pa.RecordBatch
    ) -> pa.RecordBatch:
        """Chunks of a window that a space does not hold; those that it does are refreshed."""
        if not chunks.num_rows:
            return chunks
        async with self.lease.hold():  # revives what an earlier state left hidden
            await self.index.refresh(space, chunks)
        there = await self.index.existing_keys(space, window.nodes["id"].to_pylist())
        mask = pc.is_in(chunks["chunk_key"], value_set=pa.array(sorted(there), pa.string()))
        return chunks.filter(pc.invert(mask))

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
