"""``VectorIndex`` in Postgres: one table a space, HNSW and trigram indexes, written by COPY."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
from pgvector import HalfVector, Vector

from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import Vectors, matrix_of
from agentcy_ray.retrieval.spaces import Space
from agentcy_ray.stores.postgres import Database

COPY_ROWS = 5_000
"""Rows of one transaction; bounds its memory and the time that its locks are held."""

_TEXTS = ("chunk_key", "node_id", "realm", "connector", "external_id", "name", "text", "url")
_META = (
    "node_id", "realm", "labels", "source_id", "connector", "external_id", "name", "url",
    "properties", "seen_at",
)  # fmt: skip
_COPIED = ("chunk_key", "org_id", *_META, "text")

# COPY does not go through row-level security, so rows land in a table of the transaction first.
# It is named after the space, since asyncpg remembers the column types of a table by its name.
# Properties travel as text: asyncpg has no binary form of jsonb, and COPY knows no other.
_STAGE = f"""
CREATE TEMP TABLE new_{{table}} ON COMMIT DROP AS
SELECT {", ".join(c for c in _COPIED if c != "properties")}, ''::text AS properties{{vector}}
FROM {{table}} WITH NO DATA
"""
_SET = ", ".join(f"{column} = excluded.{column}" for column in _META)
_NEW = ", ".join("i.properties::jsonb" if c == "properties" else f"i.{c}" for c in _META)
_DIFFERS = f"({', '.join(f't.{c}' for c in _META)}) IS DISTINCT FROM "
# A key is a hash of the text, so a row that is there holds the right vector already.
_MERGE = f"""
INSERT INTO {{table}} AS t (chunk_key, org_id, text, embedding, {", ".join(_META)})
SELECT DISTINCT ON (chunk_key) chunk_key, org_id, text, embedding, {_NEW}
FROM new_{{table}} i ORDER BY chunk_key
ON CONFLICT (chunk_key) DO UPDATE SET {_SET}, archived_at = NULL
WHERE t.archived_at IS NOT NULL OR {_DIFFERS} ({", ".join(f"excluded.{c}" for c in _META)})
"""
_REFRESH = f"""
UPDATE {{table}} t SET ({", ".join(_META)}, archived_at) = ROW({_NEW}, NULL)
FROM new_{{table}} i WHERE t.chunk_key = i.chunk_key
  AND (t.archived_at IS NOT NULL OR {_DIFFERS} ({_NEW}))
"""
_REFRESH_NODES = """
UPDATE {table} t SET properties = i.properties::jsonb FROM new_{table} i
WHERE t.node_id = i.node_id AND t.archived_at IS NULL
  AND t.properties IS DISTINCT FROM i.properties::jsonb
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
            InvalidError: the vectors do not fit the chunks or the space.
        """
        if (len(vectors), vectors.type.list_size) != (chunks.num_rows, space.dim):
            raise InvalidError(
                f"{chunks.num_rows} chunks of a space of {space.dim} dimensions came with "
                f"{len(vectors)} vectors of {vectors.type.list_size}; embed them with the space's "
                "own embedder"
            )
        written = 0
        for start in range(0, chunks.num_rows, self._rows):
            part = vectors.slice(start, self._rows)
            rows = _records(space, chunks.slice(start, self._rows), part)
            async with self._db.tenant(space.org_id) as connection:
                stage = _STAGE.format(table=space.table_name, vector=", embedding")
                await connection.execute(stage)
                await connection.copy_records_to_table(
                    f"new_{space.table_name}", records=rows, columns=[*_COPIED, "embedding"]
                )
                written += _affected(await connection.execute(_sql(_MERGE, space)))
        return written

    async def refresh(self, space: Space, chunks: pa.RecordBatch) -> int:
        """Bring everything but the vector up to date; returns how many rows differed."""
        return await self._update(space, chunks, _REFRESH)

    async def refresh_nodes(self, space: Space, chunks: pa.RecordBatch) -> int:
        """Bring the properties of nodes up to date in all their chunks; returns how many."""
        return await self._update(space, chunks, _REFRESH_NODES)

    async def _update(self, space: Space, chunks: pa.RecordBatch, sql: str) -> int:
        """Run ``sql`` over ``chunks`` laid into the transaction's table of new rows."""
        changed = 0
        for start in range(0, chunks.num_rows, self._rows):
            rows = _records(space, chunks.slice(start, self._rows), None)
            async with self._db.tenant(space.org_id) as connection:
                await connection.execute(_STAGE.format(table=space.table_name, vector=""))
                await connection.copy_records_to_table(
                    f"new_{space.table_name}", records=rows, columns=_COPIED
                )
                changed += _affected(await connection.execute(_sql(sql, space)))
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
            return _affected(await connection.execute(_sql(sql, space), *values))


def _sql(template: str, space: Space) -> str:
    return template.format(table=space.table_name)


def _affected(tag: str) -> int:
    """Rows that a command touched, from its tag: ``INSERT 0 5``, ``UPDATE 5``."""
    return int(tag.rpartition(" ")[2])


def _records(
    space: Space, chunks: pa.RecordBatch, vectors: Vectors | None
) -> Iterator[tuple[Any, ...]]:
    """Rows in the order of ``_COPIED``; vectors stay numpy until they are bytes on the wire."""
    columns = {name: chunks.column(name).to_pylist() for name in chunks.schema.names}
    columns["org_id"] = [space.org_id] * chunks.num_rows
    columns["source_id"] = [UUID(hex=text) for text in columns["source_id"]]
    columns["properties"] = [_storable(text) for text in columns["properties"]]
    for name in _TEXTS:
        columns[name] = [t.replace("\x00", "") if t else t for t in columns[name]]
    rows = zip(*(columns[name] for name in _COPIED), strict=True)
    if vectors is None:
        yield from rows
    elif space.storage == "halfvec":
        for row, vector in zip(rows, matrix_of(vectors).astype(np.float16), strict=True):
            yield (*row, HalfVector(vector))
    else:
        for row, vector in zip(rows, matrix_of(vectors), strict=True):
            yield (*row, Vector(vector))


def _storable(text: str) -> str:
    if "\\u0000" not in text:
        return text
    return orjson.dumps(_without_nul(orjson.loads(text))).decode()


def _without_nul(value: Any) -> Any:
    """``value`` without the one character that neither text nor jsonb of Postgres can hold."""
    match value:
        case str():
            return value.replace("\x00", "")
        case list():
            return [_without_nul(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return {_without_nul(k): _without_nul(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def vector_parameter(space: Space, vector: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """``vector`` as a query parameter of the space's column type."""
    return HalfVector(vector.astype(np.float16)) if space.storage == "halfvec" else Vector(vector)
