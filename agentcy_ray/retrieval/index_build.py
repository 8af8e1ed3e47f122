"""The secondary indexes of a filled space, built while others read and write it.

``CREATE INDEX CONCURRENTLY``: a plain one would hold up every publish until the graph of vectors
is done, which takes minutes for a million chunks. What it costs is a second, cheap look at the
table and that an interrupted one leaves an invalid index behind, which the next attempt drops.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg

from agentcy_ray.core.errors import ConfigError, StorageFullError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.bulk_copy import ROWS_SCHEMA
from agentcy_ray.retrieval.index_memory import Resources, graph_bytes, resources_for
from agentcy_ray.retrieval.space import Space
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.postgres import Database

REPORT_EVERY_S = 1.0

_WANTED = """
SELECT w.name, w.definition, i.indisvalid AS valid
FROM vector_indexes($1, $2, $3, $4, $5) WITH ORDINALITY AS w (name, definition, place)
LEFT JOIN pg_index i ON i.indexrelid = to_regclass('vectors.' || quote_ident(w.name))
ORDER BY w.place
"""
# A statement that waits for a lock holds a snapshot, and CREATE INDEX CONCURRENTLY waits for those.
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('vector_indexes/' || $1::uuid::text, 0))"
_ROWS = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = $1::text::regclass"
_PROGRESS = """
SELECT phase, tuples_done AS done, blocks_done, blocks_total FROM pg_stat_progress_create_index
WHERE relid = $1::text::regclass
"""
_SERVER = """
SELECT name, source <> 'default' AS given,
  setting::bigint * CASE unit WHEN '8kB' THEN 8192 WHEN 'kB' THEN 1024 ELSE 1 END AS value
FROM pg_settings WHERE name IN ('maintenance_work_mem', 'shared_buffers', 'effective_cache_size',
  'max_parallel_maintenance_workers')
"""
_NO_ROOM = (asyncpg.DiskFullError, asyncpg.OutOfMemoryError)
"""Also raised where a container gives shared memory of a few megabytes only."""


@dataclass(frozen=True)
class BuildProgress:
    """How far a build has come."""

    index: str
    """What is being made: the name of an index, or ``waiting`` while another process builds."""
    place: int
    """Of the index among those to be made, from 1."""
    of: int
    phase: str
    """In the words of ``pg_stat_progress_create_index``."""
    done: int
    """Rows of the index that is being made."""
    total: int


@dataclass(frozen=True)
class BuildReport:
    """What a build did."""

    built: tuple[str, ...]
    """Names of the indexes that were missing."""
    rows: int
    seconds: float
    resources: Resources | None
    """None when the graph of vectors stood already."""


Report = Callable[[BuildProgress], Awaitable[None]]


class IndexBuilder:
    """Brings the indexes of a space to what its search needs."""

    def __init__(self, db: Database, spaces: SpaceStore, settings: Settings) -> None:
        self._db = db
        self._spaces = spaces
        self._settings = settings

    async def build(self, space: Space, report: Report | None = None) -> BuildReport:
        """Make the indexes that are missing and note that all stand.

        May be repeated after an end at any point, and called by several processes: one builds, the
        others wait for it. Rows that come meanwhile and afterwards are indexed as they are written.

        Args:
            space: whose table.
            report: called about once a second, and at every index.

        Raises:
            ConfigError: the login role does not own the table.
            StorageFullError: neither disk nor shared memory takes the index.
            StoreUnavailableError: Postgres went away.
        """
        began = time.monotonic()
        async with self._db.owner() as connection:
            # The build of a process that was killed ends with it.
            await connection.execute("SET client_connection_check_interval = '5s'")
            await self._alone(connection, space, report)
            table = f"{ROWS_SCHEMA}.{space.table_name}"
            try:
                wanted = await self._missing(connection, space)
                built = await self._make(connection, space, table, wanted, report)
            except asyncpg.InsufficientPrivilegeError as error:
                raise ConfigError(
                    f"the database user may not index {table} ({error}); let DATABASE_URL name the "
                    "user that ran the migrations"
                ) from error
            rows = int(await connection.fetchval(_ROWS, table))
        await self._spaces.indexed(space.org_id, space.id)
        return BuildReport(tuple(wanted), rows, round(time.monotonic() - began, 3), built)

    async def _alone(self, connection: Any, space: Space, report: Report | None) -> None:
        while not await connection.fetchval(_TRY_LOCK, space.id):
            if report is not None:
                await report(BuildProgress("waiting", 0, 0, "built by another process", 0, 0))
            await asyncio.sleep(REPORT_EVERY_S)

    async def _missing(self, connection: Any, space: Space) -> dict[str, str]:
        """Definitions by name of what does not stand, or is half made."""
        s = self._settings
        rows = await connection.fetch(
            _WANTED,
            space.id,
            "none" if space.remote else space.storage,
            space.distance,
            s.hnsw_m,
            s.hnsw_ef_construction,
        )
        return {row["name"]: row["definition"] for row in rows if not row["valid"]}

    async def _make(
        self,
        connection: Any,
        space: Space,
        table: str,
        wanted: dict[str, str],
        report: Report | None,
    ) -> Resources | None:
        if not wanted:
            return None
        # Counts the rows, and marks pages as visible to all before there is an index to be cleaned.
        await connection.execute(f"VACUUM (ANALYZE) {table}")
        rows = int(await connection.fetchval(_ROWS, table))
        need = graph_bytes(space, rows, self._settings.hnsw_m)
        server = {row["name"]: row for row in await connection.fetch(_SERVER)}
        used: Resources | None = None
        for place, (name, definition) in enumerate(wanted.items(), 1):
            resources = resources_for(need if "hnsw" in definition else 0, server)
            watched = self._watched(
                table, BuildProgress(name, place, len(wanted), "", 0, rows), report
            )
            try:
                await self._create(connection, name, definition, resources, watched)
            except _NO_ROOM:
                resources = resources.least()
                await self._create(connection, name, definition, resources, watched)
            used = resources if "hnsw" in definition else used
        return used

    async def _create(
        self,
        connection: Any,
        name: str,
        definition: str,
        resources: Resources,
        watched: Callable[[asyncio.Task[Any]], Awaitable[None]],
    ) -> None:
        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {ROWS_SCHEMA}.{name}")
        await connection.execute(
            f"SET maintenance_work_mem = '{resources.memory // 1024}kB';"
            f" SET max_parallel_maintenance_workers = {resources.workers}"
        )
        statement = connection.execute(f"CREATE INDEX CONCURRENTLY {name} {definition}")
        task = asyncio.ensure_future(statement)
        try:
            await watched(task)
        except _NO_ROOM as error:
            if resources.workers == 0:
                raise StorageFullError(
                    f"the server has no room for index {name}: {error}; free disk space, or give "
                    "its container more shared memory, then resume"
                ) from error
            raise
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def _watched(
        self, table: str, start: BuildProgress, report: Report | None
    ) -> Callable[[asyncio.Task[Any]], Awaitable[None]]:
        """What waits for a statement and tells how far it has come."""

        async def watch(task: asyncio.Task[Any]) -> None:
            if report is not None:
                await report(start)
            while not (await asyncio.wait({task}, timeout=REPORT_EVERY_S))[0]:
                if report is not None and (seen := await self._progress(table, start)):
                    await report(seen)
            await task

        return watch

    async def _progress(self, table: str, start: BuildProgress) -> BuildProgress | None:
        async with self._db.owner() as connection:
            row = await connection.fetchrow(_PROGRESS, table)
        if row is None:
            return None
        share = row["blocks_done"] / row["blocks_total"] if row["blocks_total"] else 0.0
        done = row["done"] or round(share * start.total)
        return BuildProgress(
            start.index, start.place, start.of, row["phase"], min(done, start.total), start.total
        )
