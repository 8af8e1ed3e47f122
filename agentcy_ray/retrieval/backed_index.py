"""``VectorIndex`` over whatever backend a space has: Postgres alone, or Postgres and another store.

Of two stores the other one is always written first and Postgres last. What Postgres does not hold
is not there: a vector without a row is never shown, and is written over by the next attempt, which
finds the same work in Postgres because nothing was committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pyarrow as pa

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.copy_rows import check_vectors
from agentcy_ray.retrieval.embedder import Vectors
from agentcy_ray.retrieval.index import Neighbour
from agentcy_ray.retrieval.pgvector import Before, PgVectorIndex
from agentcy_ray.retrieval.queries import Filters
from agentcy_ray.retrieval.space import Space
from agentcy_ray.retrieval.statements import source_ids
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.retrieval.vector_store import Criteria, Vector, criteria, payload
from agentcy_ray.stores.postgres import Database

PAGE = 5_000
"""Keys that are deleted at a time."""

_TO_DROP = "SELECT chunk_key FROM {table} WHERE node_id = ANY($1) AND NOT (chunk_key = ANY($2))"
_TO_HIDE = "SELECT chunk_key FROM {table} WHERE node_id = ANY($1) AND archived_at IS NULL"
_TO_PRUNE = (
    f"SELECT chunk_key FROM {{table}} WHERE source_id = $1 AND archived_at < $2 LIMIT {PAGE}"
)
_PRUNE = "DELETE FROM {table} WHERE chunk_key = ANY($1) AND archived_at < $2"
_NAMED = "SELECT id FROM sources WHERE name = ANY($1)"


class BackedIndex:
    """The ``VectorIndex`` of a process; see the protocol for what its methods do."""

    def __init__(self, db: Database, settings: Settings, backends: VectorBackends) -> None:
        self._db = db
        self._rows = PgVectorIndex(db, settings)
        self._backends = backends

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> int:
        """Write rows of ``CHUNKS`` with their vectors; returns rows written or brought up to date.

        Raises:
            InvalidError: the vectors do not fit the chunks or the space, or are not finite.
        """
        if not space.remote:
            return await self._rows.upsert(space, chunks, vectors)
        check_vectors(space, chunks.num_rows, vectors)
        await self._backends.of(space.backend).upsert(space, chunks, vectors)
        return await self._rows.upsert_rows(space, chunks)

    async def refresh(self, space: Space, chunks: pa.RecordBatch) -> int:
        """Bring everything but the vector up to date; returns how many rows differed."""
        return await self._rows.refresh(space, chunks, self._patch(space))

    async def refresh_nodes(self, space: Space, chunks: pa.RecordBatch) -> int:
        """Bring the properties of nodes up to date in all their chunks; returns how many."""
        return await self._rows.refresh_nodes(space, chunks, self._patch(space))

    async def existing_keys(self, space: Space, node_ids: Sequence[str]) -> set[str]:
        """Keys of the live chunks of these nodes."""
        return await self._rows.existing_keys(space, node_ids)

    async def replace_node_chunks(
        self, space: Space, node_ids: Sequence[str], keep_keys: Sequence[str]
    ) -> int:
        """Drop the chunks of these nodes that are not in ``keep_keys``; returns how many."""
        if space.remote:
            keys = await self._keys(space, _TO_DROP, list(node_ids), list(keep_keys))
            await self._backends.of(space.backend).delete(space, keys)
        return await self._rows.replace_node_chunks(space, node_ids, keep_keys)

    async def archive_nodes(self, space: Space, node_ids: Sequence[str], at: datetime) -> int:
        """Take the chunks of these nodes out of every search; returns how many."""
        if space.remote:
            await self.hide(space, await self._keys(space, _TO_HIDE, list(node_ids)))
        return await self._rows.archive_nodes(space, node_ids, at)

    async def hide(self, space: Space, keys: Sequence[str]) -> None:
        """Tell another store of chunks that Postgres hides; nothing to do where there is none."""
        if space.remote and keys:
            hidden = {key: {"archived": True} for key in keys}
            await self._backends.of(space.backend).patch(space, hidden)

    async def prune(self, space: Space, source_id: UUID, archived_before: datetime) -> int:
        """Delete chunks of a source that were archived before a time; returns how many."""
        if not space.remote:
            return await self._rows.prune(space, source_id, archived_before)
        pruned = 0
        while keys := await self._keys(space, _TO_PRUNE, source_id, archived_before):
            await self._backends.of(space.backend).delete(space, keys)
            async with self._db.tenant(space.org_id) as connection:
                sql = _PRUNE.format(table=space.table_name)
                tag = await connection.execute(sql, keys, archived_before)
            pruned += int(tag.rpartition(" ")[2])
        return pruned

    async def count(self, space: Space, source_id: UUID | None = None) -> int:
        """Live chunks of the space, or of one source in it."""
        return await self._rows.count(space, source_id)

    async def nearest(
        self,
        space: Space,
        vector: Vector,
        realms: Sequence[str] | None,
        filters: Filters,
        limit: int,
    ) -> list[Neighbour]:
        """The live chunks nearest to ``vector`` of those that pass the filters, nearest first."""
        if not space.remote:
            return await self._rows.nearest(space, vector, realms, filters, limit)
        asked = await criteria_of(self._db, space, realms, filters)
        return await self._backends.of(space.backend).nearest(space, vector, asked, limit)

    def _patch(self, space: Space) -> Before | None:
        if not space.remote:
            return None

        async def patch(rows: Sequence[Any]) -> None:
            told = {row["chunk_key"]: payload(row) for row in rows}
            await self._backends.of(space.backend).patch(space, told)

        return patch

    async def _keys(self, space: Space, sql: str, *values: Any) -> list[str]:
        async with self._db.tenant(space.org_id) as connection:
            rows = await connection.fetch(sql.format(table=space.table_name), *values)
        return [row[0] for row in rows]


async def criteria_of(
    db: Database, space: Space, realms: Sequence[str] | None, filters: Filters
) -> Criteria:
    """The filters of a query as a store takes them: with the ids of sources that it names."""
    ids: list[UUID] = list(source_ids(filters.sources))
    if filters.sources:
        async with db.tenant(space.org_id) as connection:
            ids += [row[0] for row in await connection.fetch(_NAMED, list(filters.sources))]
    return criteria(realms, filters, ids)
