"""What becomes of entities that nobody should see any more: hidden at once, deleted later.

Two kinds of job. ``source_purge`` hides every entity of a source that was deleted; it asks for the
deletion itself, which comes once the source's retention is over. ``retention_prune`` deletes what
was archived longer ago than that, of one such source or of every source of an organisation.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.jobs.records import Job, NewJob, Progress
from agentcy_ray.jobs.store import JobStore

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.ingest.progress import Beats
    from agentcy_ray.ingest.publish import Stores
    from agentcy_ray.stores.postgres import Database

PURGE_KIND = "source_purge"
PRUNE_KIND = "retention_prune"
PURGE_PRIORITY = 7
PRUNE_PRIORITY = 2

_SOURCES = "SELECT id, retention_days FROM sources ORDER BY id"
# Held while the source is pruned: a sync that starts waits for the row, so nothing that it brings
# back to life is deleted under it. One that runs already has the source skipped until tomorrow.
_IDLE = """
SELECT 1 FROM sources WHERE id = $1 AND status NOT IN ('running', 'publishing')
FOR UPDATE SKIP LOCKED
"""
_log = structlog.get_logger(__name__)


def purge_job(org_id: UUID, source_id: UUID, retention_days: int) -> NewJob:
    """The job that hides what a deleted source has left."""
    return NewJob(
        org_id=org_id,
        kind=PURGE_KIND,
        payload={"source_id": str(source_id), "retention_days": retention_days},
        priority=PURGE_PRIORITY,
        dedupe_key=f"{PURGE_KIND}:{source_id}",
    )


def prune_job(org_id: UUID) -> NewJob:
    """The job that deletes what was archived long ago, of every source."""
    return NewJob(org_id=org_id, kind=PRUNE_KIND, priority=PRUNE_PRIORITY, dedupe_key=PRUNE_KIND)


class Retention:
    """Carries out both kinds of job. Each may run twice: what is hidden or gone stays so."""

    def __init__(self, db: Database, stores: Stores, clock: Clock | None = None) -> None:
        self._db = db
        self._stores = stores
        self._jobs = JobStore(db)
        self._clock = clock or SystemClock()

    async def purge(self, job: Job, beat: Beats) -> None:
        """Hide every entity of a deleted source from graph and search.

        Raises:
            CancelledByRequestError: a cancel was asked for; what is hidden stays hidden.
            StoreUnavailableError: a store does not answer; the next attempt goes on.
        """
        org_id, source_id = job.org_id, UUID(job.payload["source_id"])
        engine, index, now = self._stores.engine, self._stores.index, self._clock.now()
        hidden = 0
        async for batch in engine.export_nodes(org_id, source_id):
            beat.check()
            ids: list[str] = batch.column("id").to_pylist()
            # First: what the engine still lists is found by the next attempt. A space that is
            # begun meanwhile is written too.
            for space in await self._stores.spaces.writable(org_id):
                await index.archive_nodes(space, ids, now)
            await engine.archive(org_id, "node", ids, now)
            hidden += len(ids)
            beat.progress(Progress(done=hidden, unit="entities", note="hiding"))
        days = int(job.payload["retention_days"])
        later = NewJob(
            org_id=org_id,
            kind=PRUNE_KIND,
            payload={"source_id": str(source_id), "retention_days": days},
            priority=PRUNE_PRIORITY,
            delay_secs=timedelta(days=days, hours=1).total_seconds(),
            dedupe_key=f"{PRUNE_KIND}:{source_id}",
        )
        async with self._db.tenant(org_id) as connection:  # the reconciler spreads the news of it
            await self._jobs.insert(connection, later)

    async def prune(self, job: Job, beat: Beats) -> None:
        """Delete what was archived longer ago than its source keeps it.

        Raises:
            CancelledByRequestError: a cancel was asked for.
            StoreUnavailableError: a store does not answer; the next attempt goes on.
        """
        if "source_id" in job.payload:  # a source that is gone, so nobody syncs it
            days = int(job.payload["retention_days"])
            await self._prune(job.org_id, UUID(job.payload["source_id"]), days)
            return
        async with self._db.tenant(job.org_id) as connection:
            sources = await connection.fetch(_SOURCES)
        for number, source in enumerate(sources, start=1):
            beat.check()
            async with self._db.tenant(job.org_id) as connection:
                if await _idle(connection, source["id"]):
                    await self._prune(job.org_id, source["id"], source["retention_days"])
            beat.progress(Progress(done=number, total=len(sources), unit="sources"))

    async def _prune(self, org_id: UUID, source_id: UUID, days: int) -> None:
        before = self._clock.now() - timedelta(days=days)
        entities = await self._stores.engine.prune(org_id, source_id, before)
        chunks = 0
        for space in await self._stores.spaces.writable(org_id):
            chunks += await self._stores.index.prune(space, source_id, before)
        if entities or chunks:
            _log.info("pruned", source=source_id.hex, entities=entities, chunks=chunks)


async def _idle(connection: PoolConnectionProxy[asyncpg.Record], source_id: UUID) -> bool:
    return bool(await connection.fetchval(_IDLE, source_id))
