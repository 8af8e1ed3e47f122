"""``VectorIndex`` in Postgres: one table a space, HNSW and trigram indexes, written by COPY."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from pgvector import HalfVector, Vector

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.bulk_copy import affected, stage
from agentcy_ray.retrieval.copy_rows import COLUMNS, META, check_vectors, encode_rows
from agentcy_ray.retrieval.embedder import Vectors
from agentcy_ray.retrieval.spaces import Space
from agentcy_ray.stores.postgres import Database

COPY_ROWS = 5_000
"""Rows of one transaction; bounds its memory and the time that its locks are held."""

_SET = ", ".join(f"{column} = excluded.{column}" for column in META)
_NEW = ", ".join(f"i.{column}" for column in META)
_DIFFERS = f"({', '.join(f't.{c}' for c in META)}) IS DISTINCT FROM "
# A key is a hash of the text, so a row that is there holds the right vector already.
_MERGE = f"""
INSERT INTO {{table}} AS t (chunk_key, org_id, text, embedding, {", ".join(META)})
SELECT DISTINCT ON (chunk_key) chunk_key, org_id, text, embedding, {_NEW}
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
_EXISTING = "SELECT chunk_key FROM {table} WHERE node_id = ANY($1) AND archived_at IS NULL"
_DROP = "DELETE FROM {table} WHERE node_id = ANY($1) AND NOT (chunk_key = ANY($2))"
_ARCHIVE = "UPDATE {table} SET archived_at = $2 WHERE node_id = ANY($1) AND archived_at IS NULL"
_PRUNE = "DELETE FROM {table} WHERE source_id = $1 AND archived_at < $2"
_COUNT = """
SELECT count(*) FROM {table} WHERE archived_at IS NULL AND ($1::uuid IS NULL OR source_id = $1)
"""


class PgVectorIndex:
    """The default ``VectorIndex``; see the protocol for what its methods do."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._rows = min(COPY_ROWS, settings.pipeline_batch_size)

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> int:
        """Write rows of ``CHUNKS`` with their vectors; returns rows written or brought up to date.

        Raises:
            InvalidError: the vectors do not fit the chunks or the space, or are not finite.
        """
        check_vectors(space, chunks.num_rows, vectors)
        return await self._through_stage(space, chunks, vectors, _MERGE)

    async def refresh(self, space: Space, chunks: pa.RecordBatch) -> int:
        """Bring everything but the vector up to date; returns how many rows differed."""
        return await self._through_stage(space, chunks, None, _REFRESH)

    async def refresh_nodes(self, space: Space, chunks: pa.RecordBatch) -> int:
        """Bring the properties of nodes up to date in all their chunks; returns how many."""
        return await self._through_stage(space, chunks, None, _REFRESH_NODES)

    async def _through_stage(
        self, space: Space, chunks: pa.RecordBatch, vectors: Vectors | None, sql: str
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
                changed += affected(await connection.execute(_sql(sql, space)))
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

    async def prune(self, space: Space, source_id: UUID, archived_before: datetime) -> int:
        """Delete chunks of a source that were archived before a time; returns how many."""
        return await self._execute(space, _PRUNE, source_id, archived_before)

    async def count(self, space: Space, source_id: UUID | None = None) -> int:
        """Live chunks of the space, or of one source in it."""
        async with self._db.tenant(space.org_id) as connection:
            return int(await connection.fetchval(_sql(_COUNT, space), source_id))

    async def _execute(self, space: Space, sql: str, *values: Any) -> int:
        async with self._db.tenant(space.org_id) as connection:
            return affected(await connection.execute(_sql(sql, space), *values))


def _sql(template: str, space: Space) -> str:
    return template.format(table=space.table_name)


def vector_parameter(space: Space, vector: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """``vector`` as a query parameter of the space's column type."""
    return HalfVector(vector.astype(np.float16)) if space.storage == "halfvec" else Vector(vector)
