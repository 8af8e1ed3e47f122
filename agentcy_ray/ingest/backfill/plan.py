"""Cutting the packages of an organisation into blocks, once, in a fixed order.

A block is a range of node ids of one source. Its rows are read from the package that is current
when it is read, so the plan outlives publishes: what they change they write themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pyarrow.parquet as pq

from agentcy_ray.ingest.backfill.records import Backfill
from agentcy_ray.ingest.backfill.rows import BackfillRows
from agentcy_ray.ingest.chains import load_state
from agentcy_ray.ingest.state import State

if TYPE_CHECKING:
    from agentcy_ray.ingest.backfill.rows import Connection
    from agentcy_ray.stores.objects import ObjectStore

CHARS_PER_CHUNK = 1200
"""Of a document, about; only the size of blocks depends on it."""
_INSERTED = 5_000
WAIT_SECS = 1.0
PATIENCE = 30
"""Looks at what holds a backfill up, a second apart, before its worker is given back."""

# Held while the publishes under way are listed: one that begins later finds the space among those
# that it has to write.
_SOURCES = "SELECT id FROM sources ORDER BY id FOR SHARE"
_PUBLISHING = """
SELECT id, source_id FROM sync_runs WHERE status = 'publishing'
"""
_STILL = """
SELECT source_id FROM sync_runs WHERE id = ANY($1) AND status = 'publishing'
"""
_UNPLANNED = """
SELECT s.id, s.current_package_id FROM sources s
WHERE NOT EXISTS (SELECT 1 FROM embed_sources e WHERE e.backfill_id = $1 AND e.source_id = s.id)
ORDER BY s.id
"""
_ADD_SOURCE = """
INSERT INTO embed_sources (org_id, backfill_id, source_id, package_id, nodes, planned_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_NOW = "SELECT clock_timestamp()"
_NEXT_NO = "SELECT coalesce(max(no), -1) + 1 FROM embed_blocks WHERE backfill_id = $1"
_BLOCKS = ("org_id", "backfill_id", "no", "source_id", "after_key", "last_key", "nodes")
_INSERT_BLOCKS = f"""
INSERT INTO embed_blocks ({", ".join(_BLOCKS)})
SELECT $1, $2, b.no, $3, b.after_key, b.last_key, b.nodes
FROM unnest($4::bigint[], $5::text[], $6::text[], $7::int[]) AS b (no, after_key, last_key, nodes)
"""
_INDEX_NODES = "SELECT index_vector_nodes($1)"


class HeldUpError(Exception):
    """Publishes hold the backfill up, and nothing of it can be done meanwhile."""


@dataclass(frozen=True)
class Range:
    """Node ids behind ``after``, up to and with ``last``."""

    after: str
    last: str
    nodes: int


class Planner:
    """Plans one backfill; what an earlier attempt planned stays."""

    def __init__(
        self,
        rows: BackfillRows,
        objects: ObjectStore,
        backfill: Backfill,
        folder: Path,
        check: Callable[[], None],
        patience: int = PATIENCE,
    ) -> None:
        self._rows = rows
        self._db = rows.db
        self._objects = objects
        self._backfill = backfill
        self._folder = folder
        self._check = check
        self._patience = patience

    async def begin(self) -> None:
        """Make the table fit for publishes, and list those that pass it by.

        Called once the space is written by publishes that begin (``SpaceStore.begin``).
        """
        async with self._db.system() as connection:
            await connection.execute(_INDEX_NODES, self._backfill.space_id)
        async with self._db.tenant(self._backfill.org_id) as connection:
            await connection.execute(_SOURCES)
            runs = [row["id"] for row in await connection.fetch(_PUBLISHING)]
            await self._rows.wait_for(connection, self._backfill, runs)

    async def run(self) -> None:
        """Cut every source that is not cut yet; waits for publishes that pass the space by.

        Raises:
            HeldUpError: they take long; what is cut stays so.
            LeaseLostError: another worker carries the backfill out, or it was paused.
            ConflictError, PackageCorruptError: a package cannot be read.
        """
        runs = await self._rows.waits_for(self._backfill)
        looks = 0
        while True:
            async with self._db.tenant(self._backfill.org_id) as connection:
                left = await connection.fetch(_UNPLANNED, self._backfill.id)
                held = {row[0] for row in await connection.fetch(_STILL, runs)}
            for row in left:
                if row["id"] not in held:
                    await self._source(row["id"])
            if not any(row["id"] in held for row in left):
                return
            note = f"waiting for {len(held)} syncs that began before"
            await self._rows.phase(self._backfill, "planning", note)
            self._check()
            looks += 1
            if looks >= self._patience:
                raise HeldUpError
            await asyncio.sleep(WAIT_SECS)

    async def _source(self, source_id: UUID) -> None:
        async with self._db.tenant(self._backfill.org_id) as connection:
            package = await connection.fetchval(
                "SELECT current_package_id FROM sources WHERE id = $1", source_id
            )
            at = await connection.fetchval(_NOW)
        # Read before the rows are: a publish that ends in between counts as one that followed.
        state = await load_state(
            self._db, self._objects, self._backfill.org_id, package, self._folder
        )
        ranges = await asyncio.to_thread(cut, state, self._backfill.options.block_chunks)
        self._check()
        nodes = sum(each.nodes for each in ranges)
        b = self._backfill
        async with self._db.tenant(b.org_id) as connection:
            await connection.execute(_ADD_SOURCE, b.org_id, b.id, source_id, package, nodes, at)
            await self._insert(connection, source_id, ranges)
            await self._rows.planned(connection, b, nodes, len(ranges))

    async def _insert(self, connection: Connection, source_id: UUID, ranges: list[Range]) -> None:
        b = self._backfill
        first = int(await connection.fetchval(_NEXT_NO, b.id))
        for start in range(0, len(ranges), _INSERTED):
            some = ranges[start : start + _INSERTED]
            numbers = range(first + start, first + start + len(some))
            await connection.execute(
                _INSERT_BLOCKS, b.org_id, b.id, source_id, list(numbers),
                [r.after for r in some], [r.last for r in some], [r.nodes for r in some],
            )  # fmt: skip


def cut(state: State, block_chunks: int) -> list[Range]:
    """Ranges of about ``block_chunks`` chunks; blocks, belongs on a thread.

    The same state gives the same ranges. Only ids are read.
    """
    nodes = max(1, round(block_chunks / _chunks_per_node(state)))
    ranges: list[Range] = []
    after, held, last = "", 0, ""
    for table in state.stream("nodes", ["id"]):
        ids, start = table["id"], 0
        while start < table.num_rows:
            stop = min(table.num_rows, start + nodes - held)
            held += stop - start
            last = ids[stop - 1].as_py()
            start = stop
            if held == nodes:
                ranges.append(Range(after, last, held))
                after, held = last, 0
    if held:
        ranges.append(Range(after, last, held))
    return ranges


def _chunks_per_node(state: State) -> float:
    """One for its own text, and those of its document by the size of all documents."""
    nodes, characters = 0, 0
    for layer in state.layers:
        for segment in layer.manifest.segments:
            if segment.kind == "nodes":
                nodes += segment.rows
            elif segment.kind == "documents":
                characters += _text_bytes(layer.files[segment.path])
    return 1.0 + characters / CHARS_PER_CHUNK / nodes if nodes else 1.0


def _text_bytes(path: Path) -> int:
    with pq.ParquetFile(path) as file:
        column = file.schema_arrow.get_field_index("text")
        groups = range(file.num_row_groups)
        return sum(
            file.metadata.row_group(g).column(column).total_uncompressed_size for g in groups
        )
