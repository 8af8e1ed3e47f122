"""From open blocks to chunks: packages read in order, texts cut on threads, a few blocks ahead."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pyarrow as pa
import structlog

from agentcy_ray.core.batches import DOCUMENTS, NODES
from agentcy_ray.core.errors import ConflictError
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.chains import load_state
from agentcy_ray.ingest.diff import Difference
from agentcy_ray.ingest.merge import flat, rows_until
from agentcy_ray.ingest.pipeline import ahead
from agentcy_ray.ingest.state import State
from agentcy_ray.ingest.texts import Texts, TextWindow
from agentcy_ray.retrieval.passages import chunk_batch

if TYPE_CHECKING:
    from agentcy_ray.retrieval.chunking import Chunker
    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database

REREADS = 3
"""A package that a newer one replaced may be swept away while it is read."""
_SOURCES = """
SELECT source_id FROM embed_blocks WHERE backfill_id = $1 AND status <> 'done'
GROUP BY source_id ORDER BY min(no)
"""
_BLOCKS = """
SELECT no, source_id, after_key, last_key, nodes, status = 'again' AS again FROM embed_blocks
WHERE backfill_id = $1 AND source_id = $2 AND status <> 'done' ORDER BY after_key
"""
_PACKAGE = "SELECT current_package_id, clock_timestamp() FROM sources WHERE id = $1"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Block:
    """One range of a plan that is not done."""

    no: int
    source_id: UUID
    after_key: str
    last_key: str
    nodes: int
    again: bool
    """It was met by a publish before, so some of its chunks may be there."""


@dataclass(frozen=True)
class Cut:
    """A block with what is to be embedded."""

    block: Block
    package_id: UUID | None
    """What it was read from; None = the source has no package any more."""
    ids: pa.Array
    """Its nodes, sorted."""
    hashes: pa.Array
    """Of each node and its document: equal = the same chunks."""
    chunks: pa.RecordBatch


class Reader:
    """Reads the open blocks of one backfill."""

    def __init__(
        self,
        db: Database,
        objects: ObjectStore,
        org_id: UUID,
        backfill_id: UUID,
        chunker: Chunker,
        folder: Path,
    ) -> None:
        self._db = db
        self._objects = objects
        self._org_id = org_id
        self._backfill_id = backfill_id
        self._chunker = chunker
        self._folder = folder

    async def sources(self) -> list[UUID]:
        """The sources that have open blocks, in the order of the plan."""
        async with self._db.tenant(self._org_id) as connection:
            rows = await connection.fetch(_SOURCES, self._backfill_id)
        return [row[0] for row in rows]

    async def open_blocks(self, source_id: UUID) -> list[Block]:
        """Open blocks of a source by key."""
        async with self._db.tenant(self._org_id) as connection:
            rows = await connection.fetch(_BLOCKS, self._backfill_id, source_id)
        return [Block(**dict(row)) for row in rows]

    async def state(self, package_id: UUID | None) -> State:
        """The state after a package, on this machine."""
        return await load_state(self._db, self._objects, self._org_id, package_id, self._folder)

    async def current(self, source_id: UUID) -> tuple[UUID | None, datetime]:
        """The package of a source, and the time of the database."""
        async with self._db.tenant(self._org_id) as connection:
            row = await connection.fetchrow(_PACKAGE, source_id)
            if row is None:  # deleted; its blocks end without a chunk
                return None, await connection.fetchval("SELECT clock_timestamp()")
        return row[0], row[1]

    async def cuts(self, depth: int = 2) -> AsyncGenerator[Cut]:
        """Every open block once, chunked, ``depth`` blocks ahead of the consumer.

        Raises:
            ConflictError, PackageCorruptError: a package cannot be read.
        """
        for source_id in await self.sources():
            async with aclosing(self._of(source_id, depth)) as cuts:
                async for cut in cuts:
                    yield cut

    async def _of(self, source_id: UUID, depth: int) -> AsyncGenerator[Cut]:
        blocks = await self.open_blocks(source_id)
        for attempt in range(REREADS):
            package_id, at = await self.current(source_id)
            try:
                state = await self.state(package_id)
                made = cut_blocks(state, package_id, blocks, self._chunker, at)
                async with aclosing(ahead(made, depth)) as cuts:
                    async for cut in cuts:
                        blocks = [block for block in blocks if block.no != cut.block.no]
                        yield cut
                return
            except (ConflictError, FileNotFoundError) as error:
                if attempt == REREADS - 1:
                    raise
                _log.info("backfill_package_replaced", source=source_id.hex, reason=str(error))


def cut_blocks(
    state: State,
    package_id: UUID | None,
    blocks: Sequence[Block],
    chunker: Chunker,
    seen_at: datetime,
) -> Iterator[Cut]:
    """The blocks of one source, sorted by key, chunked; blocks, belongs on a thread.

    Args:
        state: what the source holds.
        package_id: the newest package of ``state``.
        blocks: ranges of keys, sorted, none overlapping another.
        chunker: cuts the texts.
        seen_at: time of chunks whose document has none.
    """
    windows = Texts(Difference(State(), state)).windows(
        after=blocks[0].after_key or None if blocks else None
    )
    held: list[TextWindow] = []
    upto = ""
    for block in blocks:
        while upto < block.last_key:
            window = next(windows, None)
            if window is None:
                break
            upto = window.last
            held.append(window)
        nodes, held = _within(held, block)
        yield _chunked(block, package_id, nodes, chunker, seen_at)


def _within(
    held: Sequence[TextWindow], block: Block
) -> tuple[list[tuple[pa.Table, pa.Table]], list[TextWindow]]:
    """Nodes and documents of a block out of windows, and the windows that reach behind it."""
    found: list[tuple[pa.Table, pa.Table]] = []
    for window in held:
        if not window.nodes.num_rows:
            continue
        ids = window.nodes["id"]
        first = rows_until(window.nodes, "id", block.after_key)
        nodes = window.nodes.slice(first, rows_until(window.nodes, "id", block.last_key) - first)
        if not nodes.num_rows:
            continue
        documents = window.documents
        if documents.num_rows and nodes.num_rows < len(ids):
            low = rows_until(documents, "node_id", block.after_key)
            high = rows_until(documents, "node_id", block.last_key)
            documents = documents.slice(low, high - low)
        found.append((nodes, documents))
    rest = [window for window in held if window.last > block.last_key]
    return found, rest


def _chunked(
    block: Block,
    package_id: UUID | None,
    parts: Sequence[tuple[pa.Table, pa.Table]],
    chunker: Chunker,
    seen_at: datetime,
) -> Cut:
    nodes = one([nodes for nodes, _ in parts], NODES)
    documents = one([documents for _, documents in parts], DOCUMENTS)
    return Cut(
        block,
        package_id,
        nodes["id"],
        hashes_of(nodes, documents),
        chunk_batch(nodes, documents, chunker, seen_at=seen_at),
    )


def hashes_of(nodes: pa.RecordBatch, documents: pa.RecordBatch) -> pa.Array:
    """The content hash of each node with that of its document, as one text.

    Args:
        nodes: at least ``id`` and ``content_hash``.
        documents: at least ``node_id`` and ``content_hash``, one a node at most.
    """
    at = pc.index_in(nodes["id"], value_set=documents["node_id"])
    body = pc.fill_null(documents["content_hash"].take(at), "")
    return pc.binary_join_element_wise(nodes["content_hash"], body, "/")


def one(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.RecordBatch:
    """Tables as one batch of the columns of ``schema``."""
    if not tables:
        return pa.RecordBatch.from_pylist([], schema=schema)
    table = pa.concat_tables([table.select(schema.names).cast(schema) for table in tables])
    return pa.RecordBatch.from_arrays([flat(column) for column in table.columns], schema=schema)
