"""What a pipeline took, written down: run, segments, replays and the job, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.ingest.continuous.records import REJECTS_KEPT, Pipeline
from agentcy_ray.ingest.continuous.segments import NewSegment, add_segment, lock_source
from agentcy_ray.jobs.records import Job, NewJob

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.jobs.queue import JobQueue
    from agentcy_ray.stores.postgres import Database

KIND = "pipeline_run"
PRIORITY = 6
SEAL_AFTER = timedelta(minutes=15)
SEAL_BYTES = 256 * 1024 * 1024
REPLAY_FOR = timedelta(hours=24)

_TO_RUN = f"""
UPDATE context_pipeline_runs SET requests = requests + $2, accepted = accepted + $3,
  rejected = rejected + $4, segments = segments + $5, bytes = bytes + $6,
  rejects = CASE WHEN jsonb_array_length(rejects) < {REJECTS_KEPT}
    THEN rejects || $7::jsonb ELSE rejects END
WHERE pipeline_id = $1 AND sealed_at IS NULL AND started_at > $8 AND bytes < $9
RETURNING id
"""
_SEAL = """
UPDATE context_pipeline_runs SET sealed_at = clock_timestamp()
WHERE pipeline_id = $1 AND sealed_at IS NULL
"""
_NEW_RUN = """
INSERT INTO context_pipeline_runs
  (id, org_id, pipeline_id, requests, accepted, rejected, segments, bytes, rejects)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_PIPELINE = "SELECT 1 FROM context_pipelines WHERE id = $1"
_REPLAY = """
SELECT status, answer FROM ingest_replays
WHERE pipeline_id = $1 AND key = $2 AND expires_at > $3
"""
_FORGET = "DELETE FROM ingest_replays WHERE pipeline_id = $1 AND key = $2 AND expires_at <= $3"
_REMEMBER = """
INSERT INTO ingest_replays (org_id, pipeline_id, key, status, answer, expires_at)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING true
"""
# A job that waits will find what is added now; one that runs may have looked already.
_ASKED = """
SELECT 1 FROM jobs WHERE kind = $1 AND payload ->> 'source_id' = $2
  AND status IN ('queued', 'retry_wait') LIMIT 1
"""


@dataclass(frozen=True)
class Answer:
    """The answer to a request: its status and its body, JSON values."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Taken:
    """What came of one request, before it has a run."""

    accepted: int
    rejected: int
    errors: tuple[dict[str, Any], ...]
    replay_key: str | None = None

    def answer(self, run_id: UUID) -> Answer:
        """200 when anything was accepted, or nothing was sent wrongly; else 422."""
        body: dict[str, Any] = {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "errors": list(self.errors),
            "run_id": encode("prn", run_id),
        }
        return Answer(200 if self.accepted or not self.rejected else 422, body)


class RepeatedError(Exception):
    """Requests with keys that another one used at the same moment; nothing was written."""

    def __init__(self, keys: frozenset[str]) -> None:
        super().__init__("another request used the key at this moment; its answer is to be given")
        self.keys = keys


class Ledger:
    """Writes down what came; any number of processes may do so side by side."""

    def __init__(self, db: Database, queue: JobQueue, clock: Clock | None = None) -> None:
        self._db = db
        self._queue = queue
        self._clock = clock or SystemClock()

    async def replay(self, pipeline: Pipeline, key: str) -> Answer | None:
        """The first answer to a key of the last 24 hours."""
        async with self._db.tenant(pipeline.org_id) as connection:
            row = await connection.fetchrow(_REPLAY, pipeline.id, key, self._clock.now())
        return None if row is None else Answer(row["status"], row["answer"])

    async def write(
        self,
        pipeline: Pipeline,
        taken: Sequence[Taken],
        segments: Sequence[NewSegment],
        *,
        drop: DroppedFile | None = None,
    ) -> list[Answer]:
        """Record requests and the segments that hold what was accepted of them.

        Args:
            pipeline: whose they are.
            taken: the requests.
            segments: their objects, stored already.
            drop: the file that they are of; with one, ``taken`` may speak of it alone.

        Returns:
            The answers, in the order of the requests.

        Raises:
            RepeatedError: keys were used by others meanwhile; nothing was written.
            NotFoundError: the pipeline was deleted, or the file has been taken.
            StoreUnavailableError: Postgres does not answer; what came of it is not known.
        """
        job: Job | None = None
        async with self._db.tenant(pipeline.org_id) as connection:
            there = await lock_source(connection, pipeline.source_id)
            if not there or not await connection.fetchval(_PIPELINE, pipeline.id):
                raise NotFoundError("the pipeline was deleted; make another one")
            run_id = await self._run(connection, pipeline, taken, segments)
            answers = [each.answer(run_id) for each in taken]
            await self._remember(connection, pipeline, taken, answers)
            if drop is not None:
                await drop.done(connection, pipeline, run_id, taken)
            for segment in segments:
                await add_segment(
                    connection, pipeline.org_id, pipeline.source_id, run_id, pipeline.id,
                    pipeline.target_table, segment,
                )  # fmt: skip
            source = str(pipeline.source_id)
            if segments and not await connection.fetchval(_ASKED, KIND, source):
                payload = {"source_id": source}
                wanted = NewJob(
                    org_id=pipeline.org_id, kind=KIND, payload=payload, priority=PRIORITY
                )
                job = await self._queue.store.insert(connection, wanted)
        if job is not None:
            await self._queue.announce(job)
        return answers

    async def _run(
        self,
        connection: PoolConnectionProxy[Record],
        pipeline: Pipeline,
        taken: Sequence[Taken],
        segments: Sequence[NewSegment],
    ) -> UUID:
        """Count everything in the open run; a full or old one is sealed for a new one."""
        rejects = [error for each in taken for error in each.errors][:REJECTS_KEPT]
        counts = (
            len(taken),
            sum(each.accepted for each in taken),
            sum(each.rejected for each in taken),
            len(segments),
            sum(segment.bytes for segment in segments),
            rejects,
        )
        since = self._clock.now() - SEAL_AFTER
        found = await connection.fetchval(_TO_RUN, pipeline.id, *counts, since, SEAL_BYTES)
        if found is not None:
            return found
        await connection.execute(_SEAL, pipeline.id)
        run_id = new_id()
        await connection.execute(_NEW_RUN, run_id, pipeline.org_id, pipeline.id, *counts)
        return run_id

    async def _remember(
        self,
        connection: PoolConnectionProxy[Record],
        pipeline: Pipeline,
        taken: Sequence[Taken],
        answers: Sequence[Answer],
    ) -> None:
        now, repeated = self._clock.now(), set[str]()
        for each, answer in zip(taken, answers, strict=True):
            if each.replay_key is None:
                continue
            await connection.execute(_FORGET, pipeline.id, each.replay_key, now)
            fresh = await connection.fetchval(
                _REMEMBER, pipeline.org_id, pipeline.id, each.replay_key, answer.status,
                answer.body, now + REPLAY_FOR,
            )  # fmt: skip
            if not fresh:
                repeated.add(each.replay_key)
        if repeated:
            raise RepeatedError(frozenset(repeated))


@dataclass(frozen=True)
class DroppedFile:
    """A version of a dropped file."""

    key: str
    etag: str

    async def done(
        self,
        connection: PoolConnectionProxy[Record],
        pipeline: Pipeline,
        run_id: UUID,
        taken: Sequence[Taken],
    ) -> None:
        """Note that this version was taken.

        Raises:
            NotFoundError: it had been taken before.
        """
        fresh = await connection.fetchval(
            _DROPPED, pipeline.org_id, pipeline.id, self.key, self.etag, run_id,
            sum(each.accepted for each in taken), sum(each.rejected for each in taken),
        )  # fmt: skip
        if not fresh:
            raise NotFoundError(f"{self.key} was taken already")


_DROPPED = """
INSERT INTO file_drop_objects
  (org_id, pipeline_id, key, etag, status, run_id, accepted, rejected)
VALUES ($1, $2, $3, $4, 'done', $5, $6, $7)
ON CONFLICT (pipeline_id, key, etag) DO UPDATE SET status = 'done', run_id = excluded.run_id,
  accepted = excluded.accepted, rejected = excluded.rejected, error = NULL
  WHERE file_drop_objects.status = 'failed'
RETURNING true
"""
