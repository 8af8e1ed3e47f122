"""Segments: accepted records as Parquet objects, numbered within their source.

Segments stay as long as their source: they are the log that its state follows from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from agentcy_ray.connectors.base import BATCH_ROWS
from agentcy_ray.connectors.continuous import GraphSegment
from agentcy_ray.core.errors import NotFoundError, PackageCorruptError
from agentcy_ray.ingest.continuous.mapping import SCHEMAS

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database

KINDS: dict[str, Literal["nodes", "edges"]] = {
    "context_nodes": "nodes",
    "context_edges": "edges",
}
GRAPH = tuple(KINDS)
"""Tables whose segments a sync of their source publishes."""
PAGE = 64

_COLUMNS = "id, seq, pipeline_id, target_table, object_key, rows, bytes"
_AFTER = f"""
SELECT {_COLUMNS} FROM pipeline_segments
WHERE source_id = $1 AND seq > $2 AND target_table = ANY($3) ORDER BY seq LIMIT $4
"""
_LOCK = "SELECT 1 FROM sources WHERE id = $1 FOR NO KEY UPDATE"
_WAITING = f"""
SELECT {_COLUMNS} FROM pipeline_segments
WHERE source_id = $1 AND published_at IS NULL ORDER BY seq LIMIT $2
"""
_INSERT = """
INSERT INTO pipeline_segments
  (id, org_id, source_id, seq, pipeline_id, run_id, target_table, object_key, rows, bytes)
SELECT $1, $2, $3, coalesce(max(seq), 0) + 1, $4, $5, $6, $7, $8, $9
FROM pipeline_segments WHERE source_id = $3
"""
_PUBLISHED = """
UPDATE pipeline_segments SET published_at = clock_timestamp()
WHERE source_id = $1 AND published_at IS NULL AND target_table = ANY($2) AND seq <= $3
"""
_ONE_PUBLISHED = """
UPDATE pipeline_segments SET published_at = clock_timestamp() WHERE id = $1 AND published_at IS NULL
"""


@dataclass(frozen=True)
class Segment:
    """A stored segment."""

    id: UUID
    seq: int
    pipeline_id: UUID
    target_table: str
    object_key: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class NewSegment:
    """An object that is there already, to be numbered."""

    id: UUID
    object_key: str
    rows: int
    bytes: int


def segment_key(org_id: UUID, source_id: UUID, segment_id: UUID) -> str:
    """Where a segment lies."""
    return f"pipelines/{org_id.hex}/{source_id.hex}/{segment_id.hex}.parquet"


def to_parquet(table: pa.Table) -> bytes:
    """A table of one of the ``SCHEMAS`` as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1)
    return sink.getvalue().to_pybytes()


async def read_segment(objects: ObjectStore, segment: Segment) -> pa.Table:
    """The rows of a segment.

    Raises:
        PackageCorruptError: the object is missing or damaged.
    """
    try:
        data = await objects.get(segment.object_key)
        table = await asyncio.to_thread(pq.read_table, pa.BufferReader(data))
        return table.cast(SCHEMAS[segment.target_table])
    except (NotFoundError, pa.ArrowInvalid, OSError) as error:
        raise PackageCorruptError(
            f"object {segment.object_key} of a pipeline is missing or damaged; restore it from a "
            "backup of the object store",
            key=segment.object_key,
        ) from error


async def lock_source(connection: PoolConnectionProxy[Record], source_id: UUID) -> bool:
    """Be the only one who numbers or counts segments of a source; False when it is gone."""
    return bool(await connection.fetchval(_LOCK, source_id))


async def add_segment(
    connection: PoolConnectionProxy[Record],
    org_id: UUID,
    source_id: UUID,
    run_id: UUID,
    pipeline_id: UUID,
    table: str,
    segment: NewSegment,
) -> None:
    """Number a segment; the caller holds the source's lock."""
    await connection.execute(
        _INSERT, segment.id, org_id, source_id, pipeline_id, run_id, table, segment.object_key,
        segment.rows, segment.bytes,
    )  # fmt: skip


class SourceSegments:
    """The segments of one source."""

    def __init__(self, db: Database, objects: ObjectStore, org_id: UUID, source_id: UUID) -> None:
        self._db = db
        self._objects = objects
        self._org_id = org_id
        self._source_id = source_id

    async def after(self, seq: int) -> AsyncIterator[GraphSegment]:
        """Nodes and edges with a higher number, in order.

        Raises:
            PackageCorruptError: an object is missing or damaged.
        """
        while True:
            async with self._db.tenant(self._org_id) as connection:
                rows = await connection.fetch(_AFTER, self._source_id, seq, list(GRAPH), PAGE)
            for row in rows:
                segment = _segment(row)
                table = await read_segment(self._objects, segment)
                batches = cast("list[Any]", table.to_batches(max_chunksize=BATCH_ROWS))
                yield GraphSegment(segment.seq, KINDS[segment.target_table], tuple(batches))
                seq = segment.seq
            if len(rows) < PAGE:
                return

    async def waiting(self) -> list[Segment]:
        """Some that nobody reads yet, lowest numbers first.

        Whoever adds one while this is asked waits, and so sees what the asker is about to do.
        """
        async with self._db.tenant(self._org_id) as connection:
            await lock_source(connection, self._source_id)
            return [
                _segment(row) for row in await connection.fetch(_WAITING, self._source_id, PAGE)
            ]

    async def published(self, segment: Segment) -> None:
        """Note that a segment can be read."""
        async with self._db.tenant(self._org_id) as connection:
            await connection.execute(_ONE_PUBLISHED, segment.id)

    async def published_upto(self, seq: int) -> None:
        """Note that nodes and edges up to a number can be read."""
        async with self._db.tenant(self._org_id) as connection:
            await connection.execute(_PUBLISHED, self._source_id, list(GRAPH), seq)


def _segment(row: Record) -> Segment:
    return Segment(
        row["id"], row["seq"], row["pipeline_id"], row["target_table"], row["object_key"],
        row["rows"], row["bytes"],
    )  # fmt: skip
