"""``VectorIndex`` in Postgres: one table a space, HNSW and trigram indexes, written by COPY."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.bulk_copy import affected, stage
from agentcy_ray.retrieval.copy_rows import COLUMNS, META, check_vectors, encode_rows
from agentcy_ray.retrieval.embedder import Vectors
from agentcy_ray.retrieval.index import Neighbour
from agentcy_ray.retrieval.queries import Filters
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.retrieval.statements import nearest_statement, planner_settings
from agentcy_ray.stores.postgres import Database

COPY_ROWS = 5_000
"""Rows of one transaction; bounds its memory and the time that its locks are held."""

_SET = ", ".join(f"{column} = excluded.{column}" for column in META)
_NEW = ", ".join(f"i.{column}" for column in META)
_DIFFERS = f"({', '.join(f't.{c}' for c in META)}) IS DISTINCT FROM "
# A key is a hash of the text, so a row that is there holds the right vector already.
_MERGE = f"""
INSERT INTO {{table}} AS t ({", ".join(COLUMNS)}{{vectors}})
SELECT DISTINCT ON (chunk_key) {", ".join(COLUMNS)}{{vectors}}
FROM new_{{table}} i ORDER BY chunk_key
ON CONFLICT (chunk_key) DO UPDATE SET {_SET}, archived_at = NULL
WHERE t.archived_at IS NOT NULL OR {_DIFFERS} ({", ".join(f"excluded.{c}" for c in META)})
"""
_REFRESH = f"""
UPDATE {{table}} t SET ({", ".join(META)}, archived_at) = ROW({_NEW}, NULL)
FROM new_{{table}} i WHERE t.chunk_key = i.chunk_key
  AND (t.archived_at IS NOT NULL OR {_DIFFERS} ({_NEW}))
"""
_REFRESH_NODES = """
UPDATE {table} t SET properties = i.properties FROM new_{table} i
WHERE t.node_id = i.node_id AND t.archived_at IS NULL
  AND t.properties IS DISTINCT FROM i.properties
"""
_STALE = f"""
SELECT i.* FROM new_{{table}} i JOIN {{table}} t ON t.chunk_key = i.chunk_key
WHERE t.archived_at IS NOT NULL OR {_DIFFERS} ({_NEW})
"""
_STALE_NODES = """
SELECT t.chunk_key, t.realm, t.labels, t.source_id, t.seen_at, i.properties
FROM {table} t JOIN new_{table} i ON t.node_id = i.node_id
WHERE t.archived_at IS NULL AND t.properties IS DISTINCT FROM i.properties
"""
_EXISTING = "SELECT chunk_key FROM {table} WHERE node_id = ANY($1) AND archived_at IS NULL"
_DROP = "DELETE FROM {table} WHERE node_id = ANY($1) AND NOT (chunk_key = ANY($2))"
_ARCHIVE = "UPDATE {table} SET archived_at = $2 WHERE node_id = ANY($1) AND archived_at IS NULL"
_PRUNE = "DELETE FROM {table} WHERE source_id = $1 AND archived_at < $2"
_COUNT = """
SELECT count(*) FROM {table} WHERE archived_at IS NULL AND ($1::uuid IS NULL OR source_id = $1)
"""


Before = Callable[[Sequence[Any]], Awaitable[None]]
"""Told of the rows that a statement is about to change, as they will be."""


class PgVectorIndex:
    """The default ``VectorIndex``; see the protocol for what its methods do."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._spaces = SpaceStore(db, settings)
        self._rows = min(COPY_ROWS, settings.pipeline_batch_size)

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> int:
        """Write rows of ``CHUNKS`` with their vectors; returns rows written or brought up to date.

        Raises:
            InvalidError: the vectors do not fit the chunks or the space, or are not finite.
        """
        check_vectors(space, chunks.num_rows, vectors)
        return await self._through_stage(space, chunks, vectors, _MERGE)

    async def upsert_rows(self, space: Space, chunks: pa.RecordBatch) -> int:
        """As ``upsert``, of a space whose vectors lie elsewhere."""
        return await self._through_stage(space, chunks, None, _MERGE)

    async def refresh(
        self, space: Space, chunks: pa.RecordBatch, before: Before | None = None
    ) -> int:
        """Bring everything but the vector up to date; returns how many rows differed.

        ``before`` is called inside of the transaction, with the rows that will be changed.
        """
        return await self._through_stage(space, chunks, None, _REFRESH, _STALE, before)

    async def refresh_nodes(
        self, space: Space, chunks: pa.RecordBatch, before: Before | None = None
    ) -> int:
        """Bring the properties of nodes up to date in all their chunks; returns how many."""
        return await self._through_stage(space, chunks, None, _REFRESH_NODES, _STALE_NODES, before)

    async def _through_stage(
        self,
        space: Space,
        chunks: pa.RecordBatch,
        vectors: Vectors | None,
        sql: str,
        stale: str = "",
        before: Before | None = None,
    ) -> int:
        """Run ``sql`` over ``chunks``, laid into the transaction's table of new rows."""
        columns = [*COLUMNS, "embedding"] if vectors is not None else [*COLUMNS]
        changed = 0
        for start in range(0, chunks.num_rows, self._rows):
            some = None if vectors is None else vectors.slice(start, self._rows)
            part = chunks.slice(start, self._rows)
            rows = await asyncio.to_thread(encode_rows, space, part, some)
            async with self._db.tenant(space.org_id) as connection:
                await stage(connection, space, rows, columns)
                if before is not None:
                    await before(await connection.fetch(_sql(stale, space)))
                changed += affected(await connection.execute(_sql(sql, space, vectors is not None)))
        return changed

    async def existing_keys(self, space: Space, node_ids: Sequence[str]) -> set[str]:
        """Keys of the live chunks of these nodes."""
        async with self._db.tenant(space.org_id) as connection:
            rows = await connection.fetch(_sql(_EXISTING, space), list(node_ids))
        return {row[0] for row in rows}

    async def replace_node_chunks(
        self, space: Space, node_ids: Sequence[str], keep_keys: Sequence[str]
    ) -> int:
        """Drop the chunks of these nodes that are not in ``keep_keys``; returns how many."""
        return await self._execute(space, _DROP, list(node_ids), list(keep_keys))

    async def archive_nodes(self, space: Space, node_ids: Sequence[str], at: datetime) -> int:
        """Take the chunks of these nodes out of every search; returns how many."""
        return await self._execute(space, _ARCHIVE, list(node_ids), at)

    async def hide(self, space: Space, keys: Sequence[str]) -> None:
        """Nothing to do: an archived row is out of its index."""

    async def prune(self, space: Space, source_id: UUID, archived_before: datetime) -> int:
        """Delete chunks of a source that were archived before a time; returns how many."""
        return await self._execute(space, _PRUNE, source_id, archived_before)

    async def count(self, space: Space, source_id: UUID | None = None) -> int:
        """Live chunks of the space, or of one source in it."""
        async with self._db.tenant(space.org_id) as connection:
            return int(await connection.fetchval(_sql(_COUNT, space), source_id))

    async def nearest(
        self,
        space: Space,
        vector: np.ndarray[Any, np.dtype[np.float32]],
        realms: Sequence[str] | None,
        filters: Filters,
        limit: int,
    ) -> list[Neighbour]:
        """The live chunks nearest to ``vector`` of those that pass the filters, nearest first."""
        version = await self._spaces.vector_version()
        statement = nearest_statement(space, vector, realms, filters, limit)
        rows: list[Any] = []
        for exact in (False, True):
            local = planner_settings(self._settings, version, limit, exact=exact)
            async with self._db.tenant(space.org_id) as connection:
                await connection.fetchrow(local.sql, *local.values)
                rows = await connection.fetch(statement.sql, *statement.values)
            if not rows[0]["missed"]:
                break
        return [(row["chunk_key"], row["similarity"]) for row in rows if row["chunk_key"]]

    async def _execute(self, space: Space, sql: str, *values: Any) -> int:
        async with self._db.tenant(space.org_id) as connection:
            return affected(await connection.execute(_sql(sql, space), *values))


def _sql(template: str, space: Space, with_vectors: bool = False) -> str:
    return template.format(table=space.table_name, vectors=", embedding" if with_vectors else "")
