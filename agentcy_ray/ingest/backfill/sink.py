"""Writing a block: chunks, vectors and the block's mark in one transaction, under two fences.

One fence is the backfill's epoch: a worker that was replaced commits nothing. The other is the
source. Publishes write the space as well, and what they write is newer than a block that was read
before. A publish can begin or end only by updating the row of its source, on which the transaction
holds a share lock; so inside of it one of three things holds:

- nothing was published since the block was read: it is written;
- a newer package is current, or is being published: only nodes that are the same in every one of
  these packages are written, and the block is read again later if there are others;
- the source is gone: nothing is written, and the block is done.

A block that publishes may have met replaces what it finds of its nodes, so chunks of an older text
do not stay. The others, which is all of them where nobody publishes, are only added.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import pyarrow as pa

from agentcy_ray.core.errors import ConflictError, PackageCorruptError
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.backfill.reading import Cut, hashes_of, one
from agentcy_ray.ingest.backfill.records import Backfill
from agentcy_ray.ingest.backfill.rows import BackfillRows, Rates, RowError
from agentcy_ray.ingest.state import Keys, State
from agentcy_ray.retrieval.bulk_copy import copy_chunks
from agentcy_ray.retrieval.embedder import EmbedUsage

if TYPE_CHECKING:
    from agentcy_ray.ingest.backfill.rows import Connection
    from agentcy_ray.retrieval.embedder import Vectors
    from agentcy_ray.retrieval.space import Space
    from agentcy_ray.retrieval.vector_backends import VectorBackends

STATES_KEPT = 4
NO_USAGE = EmbedUsage()

_LOCK_SOURCE = "SELECT current_package_id FROM sources WHERE id = $1 FOR SHARE"
# A run that is publishing, or has ended since publishes write the space, may have written it.
_PUBLISHED = """
SELECT
  (SELECT package_id FROM sync_runs WHERE source_id = $2 AND status = 'publishing' LIMIT 1)
    AS publishing,
  EXISTS (SELECT 1 FROM sync_runs r, embed_backfills b JOIN embedding_spaces s
      ON s.id = b.space_id
    WHERE b.id = $1 AND r.source_id = $2
      AND (r.status = 'publishing' OR r.ended_at > least(b.started_at, s.written_since))) AS met
"""
_THERE = "SELECT chunk_key FROM {table} WHERE chunk_key = ANY($1) AND archived_at IS NULL"
_CLEAR = """
DELETE FROM {table}
WHERE node_id = ANY($1) AND (archived_at IS NOT NULL OR NOT chunk_key = ANY($2))
RETURNING chunk_key
"""
_MARK = """
UPDATE embed_blocks SET status = $3, chunks = $4
WHERE backfill_id = $1 AND no = $2 AND status <> 'done' RETURNING true
"""
_MENDED = """
DELETE FROM embed_errors
WHERE backfill_id = $1 AND node_id = ANY($2) AND NOT chunk_key = ANY($3)
"""

LoadState = Callable[[UUID | None], Awaitable[State]]


@dataclass(frozen=True)
class Wanted:
    """What of a block is to be embedded and written."""

    cut: Cut
    ids: pa.Array
    """Its nodes, without those that a publish changes at present."""
    there: frozenset[str] = frozenset()
    """Keys that were found in the table; they need no vector."""

    def chunks(self) -> pa.RecordBatch:
        """The chunks that need a vector."""
        chunks = self.cut.chunks
        if len(self.ids) < len(self.cut.ids):
            chunks = chunks.filter(pc.is_in(chunks["node_id"], value_set=self.ids))
        if self.there:
            there = pa.array(sorted(self.there), pa.string())
            chunks = chunks.filter(pc.invert(pc.is_in(chunks["chunk_key"], value_set=there)))
        return chunks


@dataclass(frozen=True)
class Embedded:
    """A block on its way to the table."""

    wanted: Wanted
    chunks: pa.RecordBatch
    """Those with a vector."""
    vectors: Vectors
    errors: tuple[RowError, ...] = ()
    usage: EmbedUsage = NO_USAGE


@dataclass(frozen=True)
class _Standing:
    """A source inside a transaction."""

    gone: bool
    current: UUID | None
    publishing: UUID | None
    met: bool
    """Whether a publish may have written the space."""

    def newer(self, package_id: UUID | None) -> tuple[UUID, ...]:
        """Packages other than the one that a block was read from."""
        others = (self.current, self.publishing)
        return tuple(other for other in others if other is not None and other != package_id)


class Sink:
    """Writes the blocks of one backfill."""

    def __init__(
        self,
        rows: BackfillRows,
        backfill: Backfill,
        space: Space,
        load: LoadState,
        backends: VectorBackends,
    ) -> None:
        self._rows = rows
        self._db = rows.db
        self._backfill = backfill
        self._space = space
        self._load = load
        self._store = backends.of(space.backend) if space.remote else None
        self._states: OrderedDict[UUID, State] = OrderedDict()

    async def wanted(self, cut: Cut) -> Wanted:
        """What of a block to embed: of one that a publish met, only what has to be.

        A hint, for ``write`` looks again: it saves the model what would be thrown away.
        """
        if not cut.block.again:
            return Wanted(cut, cut.ids)
        async with self._db.tenant(self._backfill.org_id) as connection:
            standing = await self._standing(connection, cut)
            there = await self._live(connection, cut.chunks["chunk_key"].to_pylist())
        if standing.gone:
            return Wanted(cut, cut.ids.slice(0, 0))
        keep = await self._unchanged(cut, standing.newer(cut.package_id))
        return Wanted(cut, cut.ids if keep is None else cut.ids.filter(keep), there)

    async def write(self, block: Embedded, rates: Rates) -> bool:
        """Commit a block; returns whether it is done, else it has to be read again.

        Raises:
            LeaseLostError: another worker has the backfill, or it was paused or cancelled.
            StoreUnavailableError: nothing was committed.
        """
        cut = block.wanted.cut
        compared: tuple[UUID, ...] = ()
        keep: pa.Array | None = None
        while True:
            async with self._db.tenant(self._backfill.org_id) as connection:
                standing = await self._standing(connection, cut)
                newer = standing.newer(cut.package_id)
                if newer == compared:
                    ids = cut.ids if keep is None else cut.ids.filter(keep)
                    return await self._commit(connection, block, standing, ids, rates)
            keep = await self._unchanged(cut, newer)
            compared = newer

    async def mend(self, block: Embedded, asked: Sequence[str]) -> bool:
        """Write texts that were refused before, apart from any block.

        Args:
            block: what came of the nodes, as they are now.
            asked: ids of the nodes; what of them was refused before and is no more, is forgotten.

        Returns:
            Whether it was done; not so while a publish changes one of the nodes.
        """
        cut, backfill = block.wanted.cut, self._backfill
        async with self._db.tenant(backfill.org_id) as connection:
            standing = await self._standing(connection, cut)
            if standing.newer(cut.package_id):
                return False
            if not standing.gone and not (await self._put(connection, block, standing, cut.ids))[0]:
                return False
            refused = [error.chunk_key for error in block.errors]
            await connection.execute(_MENDED, backfill.id, list(asked), refused)
            await self._rows.spent(
                connection, backfill, block.usage, 0 if standing.gone else block.chunks.num_rows
            )
        return True

    async def _commit(
        self,
        connection: Connection,
        block: Embedded,
        standing: _Standing,
        ids: pa.Array,
        rates: Rates,
    ) -> bool:
        cut = block.wanted.cut
        if standing.gone:
            whole, counted = True, 0
        else:
            whole, counted = await self._put(connection, block, standing, ids)
        marked = await connection.fetchval(
            _MARK, self._backfill.id, cut.block.no, "done" if whole else "again", counted
        )
        if whole and marked:
            await self._rows.done(
                connection, self._backfill, nodes=cut.block.nodes, chunks=counted,
                usage=block.usage, rates=rates,
            )  # fmt: skip
        else:
            await self._rows.spent(connection, self._backfill, block.usage)
        return whole

    async def _put(
        self, connection: Connection, block: Embedded, standing: _Standing, ids: pa.Array
    ) -> tuple[bool, int]:
        """Write the chunks of ``ids``; returns whether the block is complete, and its chunks."""
        wanted, chunks, vectors = block.wanted, block.chunks, block.vectors
        cut, keys = wanted.cut, wanted.cut.chunks["chunk_key"]
        if len(wanted.ids) < len(cut.ids):
            ids = ids.filter(pc.is_in(ids, value_set=wanted.ids))
        whole = len(ids) == len(cut.ids)
        if not whole:
            mask = pc.is_in(chunks["node_id"], value_set=ids)
            chunks, vectors = chunks.filter(mask), vectors.filter(mask)
            keys = keys.filter(pc.is_in(cut.chunks["node_id"], value_set=ids))
        if standing.met and len(ids):
            stay: list[str] = keys.to_pylist()
            clear = _CLEAR.format(table=self._space.table_name)
            gone = await connection.fetch(clear, ids.to_pylist(), stay)
            if self._store is not None:
                await self._store.delete(self._space, [row[0] for row in gone])
            expected = wanted.there.intersection(stay)
            whole &= await self._live(connection, sorted(expected)) == expected
        if chunks.num_rows:
            if self._store is not None:
                await self._to_store(connection, chunks, vectors)
            await copy_chunks(connection, self._space, chunks, vectors)
        if block.errors:
            await self._rows.put_errors(connection, self._backfill, block.errors)
        return whole, len(keys) - len(block.errors) if whole else 0

    async def _to_store(
        self, connection: Connection, chunks: pa.RecordBatch, vectors: Vectors
    ) -> None:
        """Write vectors to another store, but those of chunks that a publish wrote before.

        Before the rows and so before the mark: a block that is done has its vectors there.
        """
        store = self._store
        assert store is not None
        there = await self._live(connection, chunks["chunk_key"].to_pylist())
        if there:
            known = pa.array(sorted(there), pa.string())
            mask = pc.invert(pc.is_in(chunks["chunk_key"], value_set=known))
            chunks, vectors = chunks.filter(mask), vectors.filter(mask)
        await store.upsert(self._space, chunks, vectors)

    async def _standing(self, connection: Connection, cut: Cut) -> _Standing:
        source_id = cut.block.source_id
        row = await connection.fetchrow(_LOCK_SOURCE, source_id)
        if row is None:
            return _Standing(gone=True, current=None, publishing=None, met=False)
        # A statement of its own, to see what was committed while the lock was waited for.
        seen = await connection.fetchrow(_PUBLISHED, self._backfill.id, source_id)
        assert seen is not None
        met = cut.block.again or bool(seen["met"])
        return _Standing(gone=False, current=row[0], publishing=seen["publishing"], met=met)

    async def _live(self, connection: Connection, keys: Sequence[str]) -> frozenset[str]:
        sql = _THERE.format(table=self._space.table_name)
        return frozenset(row[0] for row in await connection.fetch(sql, list(keys)))

    async def _unchanged(self, cut: Cut, packages: Sequence[UUID]) -> pa.Array | None:
        """Mask over a block's nodes: the same in all packages; None = all of them."""
        keep: pa.Array | None = None
        for package in packages:
            state = await self._state(package)
            if state is None:  # replaced in the meantime, so something newer is read again
                return pa.repeat(False, len(cut.ids))
            same = await asyncio.to_thread(_same, cut, state)
            keep = same if keep is None else pc.and_(keep, same)
        return keep

    async def _state(self, package: UUID) -> State | None:
        if package not in self._states:
            try:
                self._states[package] = await self._load(package)
            except (ConflictError, PackageCorruptError, FileNotFoundError):
                return None
        self._states.move_to_end(package)
        while len(self._states) > STATES_KEPT:
            self._states.popitem(last=False)
        return self._states[package]


def _same(cut: Cut, state: State) -> pa.Array:
    if not len(cut.ids):
        return pa.array([], pa.bool_())
    within = Keys([cut.ids])
    nodes = list(state.stream("nodes", ["content_hash"], within=within))
    documents = list(state.stream("documents", ["content_hash"], within=within))
    found = one(nodes, _NODE_HASHES)
    hashes = hashes_of(found, one(documents, _DOCUMENT_HASHES))
    at = pc.index_in(cut.ids, value_set=found["id"])
    return pc.fill_null(pc.equal(hashes.take(at), cut.hashes), False)


_NODE_HASHES = pa.schema([("id", pa.string()), ("content_hash", pa.string())])
_DOCUMENT_HASHES = pa.schema([("node_id", pa.string()), ("content_hash", pa.string())])
