"""Edges whose end no publish has brought yet: kept as rows, applied by the one that does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pyarrow as pa

from agentcy_ray.ingest.state import Keys

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.postgres import Database

_IDS = "SELECT edge_id FROM dangling_edges WHERE source_id = $1"
_COUNT = "SELECT count(*) FROM dangling_edges WHERE source_id = $1"
_PUT = """
INSERT INTO dangling_edges
  (org_id, edge_id, source_id, src, dst, type, realm, properties, content_hash, missing_end)
SELECT $1, e.edge_id, $2, e.src, e.dst, e.type, e.realm, e.properties, e.hash, e.missing
FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
  $10::text[]) AS e(edge_id, src, dst, type, realm, properties, hash, missing)
ON CONFLICT (org_id, edge_id) DO UPDATE SET properties = excluded.properties,
  realm = excluded.realm, content_hash = excluded.content_hash, missing_end = excluded.missing_end
"""
_DROP = "DELETE FROM dangling_edges WHERE source_id = $1 AND edge_id = ANY($2)"
_COLUMNS = ("id", "src", "dst", "type", "realm", "properties", "content_hash", "missing_end")


async def dangling_keys(db: Database, org_id: UUID, source_id: UUID) -> Keys:
    """Ids of the edges of a source that wait for an end."""
    async with db.tenant(org_id) as connection:
        rows = await connection.fetch(_IDS, source_id)
    return Keys([pa.array([row[0] for row in rows], pa.string())])


async def count_dangling(connection: PoolConnectionProxy[asyncpg.Record], source_id: UUID) -> int:
    """How many edges of a source wait for an end."""
    return int(await connection.fetchval(_COUNT, source_id))


async def put_dangling(
    connection: PoolConnectionProxy[asyncpg.Record], org_id: UUID, source_id: UUID, edges: pa.Table
) -> None:
    """Keep edges; ``edges`` has the columns of ``EDGES`` and ``missing_end``."""
    columns: list[Any] = [edges[name].to_pylist() for name in _COLUMNS]
    await connection.execute(_PUT, org_id, source_id, *columns)


async def drop_dangling(
    connection: PoolConnectionProxy[asyncpg.Record], source_id: UUID, ids: pa.Array
) -> None:
    """Forget edges that were applied, or that their source has no more."""
    await connection.execute(_DROP, source_id, ids.to_pylist())
