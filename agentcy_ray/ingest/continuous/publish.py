"""The job ``pipeline_run``: bring what pipelines took to where it is read.

Nodes and edges are published by a sync of the realm's built-in source, which this job carries out
itself; events are appended segment by segment. Either may be done twice and leaves the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from uuid import UUID

import pyarrow as pa

from agentcy_ray.core.errors import (
    ConflictError,
    ConnectorUnavailableError,
    NotFoundError,
    StoreUnavailableError,
)
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.continuous.segments import GRAPH, Segment, SourceSegments, read_segment
from agentcy_ray.ingest.syncs import sync_within
from agentcy_ray.jobs.records import Progress

if TYPE_CHECKING:
    from agentcy_ray.context.engine import ContextEngine
    from agentcy_ray.ingest.continuous.file_drop import FileDrops
    from agentcy_ray.ingest.progress import Beats
    from agentcy_ray.ingest.runner import SyncRunner
    from agentcy_ray.jobs.records import Job
    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database

EVENT_ROWS = 5_000
"""Events of one engine write."""
_LOCK_ENGINE = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"


class PipelinePublisher:
    """Carries ``pipeline_run`` jobs out."""

    def __init__(
        self,
        db: Database,
        objects: ObjectStore,
        engine: ContextEngine,
        runner: SyncRunner,
        drops: FileDrops,
    ) -> None:
        self._db = db
        self._objects = objects
        self._engine = engine
        self._runner = runner
        self._drops = drops

    async def run(self, job: Job, beat: Beats) -> None:
        """Take the files of a drop, or publish the segments of a source until none waits.

        Raises:
            ConnectorUnavailableError: somebody syncs the source by hand; it is tried again.
            CancelledByRequestError: a cancel was asked for.
            AgentcyError: a store failed, or the sync did.
        """
        if "pipeline_id" in job.payload:
            await self._drops.run(job.org_id, UUID(job.payload["pipeline_id"]), beat)
            return
        source_id = UUID(job.payload["source_id"])
        segments = SourceSegments(self._db, self._objects, job.org_id, source_id)
        done = 0
        while waiting := await segments.waiting():
            beat.check()
            for segment in waiting:
                if segment.target_table in GRAPH:
                    continue
                await self._append(job.org_id, segment)
                await segments.published(segment)
                done += segment.rows
                beat.progress(Progress(done=done, unit="events", note="appending"))
                beat.check()
            if any(segment.target_table in GRAPH for segment in waiting):
                await self._sync(job, source_id, beat)
                await segments.published_upto(await self._read_upto(job.org_id, source_id))

    async def _append(self, org_id: UUID, segment: Segment) -> None:
        table = await read_segment(self._objects, segment)
        batches = cast("list[pa.RecordBatch]", table.to_batches(max_chunksize=EVENT_ROWS))
        engine = await self._engine.capabilities_of(org_id)
        for batch in batches:
            if engine.writers == "many":
                await self._engine.append_events(org_id, batch)
                continue
            async with self._db.tenant(org_id) as connection:  # one writer at a time, as syncs do
                name = f"agentcy.engine.{engine.engine}"
                await connection.execute(_LOCK_ENGINE, name)
                await self._engine.append_events(org_id, batch)

    async def _sync(self, job: Job, source_id: UUID, beat: Beats) -> None:
        try:
            run_id = await sync_within(self._db, job.org_id, source_id, job.id)
            if run_id is None:
                raise NotFoundError("the source of the pipelines was deleted; nothing is published")
            owner = job.worker_id or encode("job", job.id)
            await self._runner.run(job.org_id, run_id, owner, beat)
        except ConflictError as error:
            if error.code != "sync_in_progress":
                raise
            raise ConnectorUnavailableError(
                "the source of the pipelines is being synced; tried again once that is over"
            ) from error

    async def _read_upto(self, org_id: UUID, source_id: UUID) -> int:
        """The number up to which the last published sync has read.

        Raises:
            StoreUnavailableError: the sync ended without one; it was called off or failed.
        """
        async with self._db.tenant(org_id) as connection:
            seq = await connection.fetchval(_CURSOR, source_id)
        if seq is None:
            raise StoreUnavailableError("the sync of the pipelines' source ended unpublished")
        return int(seq)


_CURSOR = """
SELECT (cursor ->> 'seq')::bigint FROM source_cursors WHERE source_id = $1 AND stream = 'segments'
"""
