"""The rows of ``jobs``: the truth about every job, whatever carries its id.

Every move is a guarded UPDATE whose allowed origins come from ``core/states.py``. A worker proves
itself by the epoch that its claim was given; a statement with an older one changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from agentcy_ray.core.errors import ConflictError, LeaseLostError, NotFoundError
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.states import JOB, sources_of
from agentcy_ray.jobs.records import HEARD, Job, JobStatus, NewJob, Progress

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.postgres import Database

RUNNING_PER_ORG = 8
"""Jobs of one organisation that run at once; further ones wait, so that no tenant takes all."""

_COLUMNS = (
    "id, org_id, kind, payload, priority, status, attempts, max_attempts, run_after, lease_until,"
    " epoch, worker_id, cancel_requested, progress, error, dedupe_key, created_at, updated_at"
)
_OPEN = "status IN ('queued', 'running', 'retry_wait')"

_INSERT = f"""
INSERT INTO jobs (id, org_id, kind, payload, priority, max_attempts, run_after, dedupe_key)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(secs => $7), $8)
ON CONFLICT (org_id, dedupe_key) WHERE {_OPEN} DO NOTHING
RETURNING {_COLUMNS}
"""
_BY_KEY = f"SELECT {_COLUMNS} FROM jobs WHERE org_id = $1 AND dedupe_key = $2 AND {_OPEN}"
_GET = f"SELECT {_COLUMNS} FROM jobs WHERE id = $1"
_LIST = f"""
SELECT {_COLUMNS} FROM jobs
WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR kind = $2)
  AND ($3::uuid IS NULL OR id < $3)
ORDER BY id DESC LIMIT $4
"""

# Claims queue on one lock, so that two workers cannot both read "7 of 8 running".
_CLAIM_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('agentcy.jobs.claim', 0))"
_LAPSE = """
UPDATE jobs SET
  status = CASE WHEN cancel_requested THEN 'cancelled'
                WHEN attempts >= max_attempts THEN 'dead' ELSE 'retry_wait' END,
  error = jsonb_build_object('code', 'worker_lost', 'message',
    'the worker stopped answering during attempt ' || attempts || ' of ' || max_attempts
    || '; retry the job once the cause is mended'),
  run_after = clock_timestamp(), lease_until = NULL, worker_id = NULL
WHERE status = ANY($1) AND lease_until < clock_timestamp()
"""
_PROMOTE = """
UPDATE jobs SET status = 'queued' WHERE status = 'retry_wait' AND run_after <= clock_timestamp()
"""
_CLAIM = f"""
WITH busy AS (SELECT org_id, count(*) AS running FROM jobs WHERE status = 'running' GROUP BY 1),
waiting AS (
  SELECT DISTINCT org_id FROM jobs
  WHERE status = 'queued' AND run_after <= clock_timestamp() AND kind = ANY($2)),
served AS (
  SELECT org_id, (SELECT max(j.claimed_at) FROM jobs j WHERE j.org_id = waiting.org_id) AS at
  FROM waiting),
chosen AS (
  SELECT j.id FROM jobs j JOIN served s USING (org_id) LEFT JOIN busy b USING (org_id)
  WHERE j.status = 'queued' AND j.run_after <= clock_timestamp() AND j.kind = ANY($2)
    AND coalesce(b.running, 0) < $3
  ORDER BY j.priority DESC, s.at NULLS FIRST, j.run_after, j.id
  LIMIT 1)
UPDATE jobs SET status = 'running', worker_id = $1, epoch = epoch + 1, attempts = attempts + 1,
  claimed_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => $4)
WHERE id = (SELECT id FROM chosen) AND status = ANY($5)
RETURNING {_COLUMNS}
"""
_BEAT = """
UPDATE jobs SET lease_until = clock_timestamp() + make_interval(secs => $3),
  progress = coalesce($4, progress)
WHERE id = $1 AND epoch = $2 AND status = 'running'
RETURNING cancel_requested
"""
_FINISH = f"""
UPDATE jobs SET status = $3, error = $4, lease_until = NULL,
  run_after = clock_timestamp() + make_interval(secs => $5),
  attempts = attempts - CASE WHEN $6 THEN 1 ELSE 0 END
WHERE id = $1 AND epoch = $2 AND status = ANY($7)
RETURNING {_COLUMNS}
"""
# A job that was woken while its worker looked at what it waits for has its turn at once.
_LAY_BY = f"""
UPDATE jobs SET status = 'retry_wait', error = NULL, lease_until = NULL, attempts = attempts - 1,
  run_after = clock_timestamp() + make_interval(
    secs => CASE WHEN cancel_requested OR run_after > claimed_at THEN 0 ELSE $3::float8 END)
WHERE id = $1 AND epoch = $2 AND status = ANY($4)
RETURNING {_COLUMNS}
"""
# Of a running job ``run_after`` lies before its claim, unless it was woken since.
_WAKE = f"""
UPDATE jobs SET run_after = clock_timestamp()
WHERE id = $1 AND status IN ('running', 'retry_wait') RETURNING {_COLUMNS}
"""
# One that was begun and then handed back, not failed: its handler left things to put in order.
_CANCEL_BEGUN = f"""
UPDATE jobs SET cancel_requested = true, run_after = clock_timestamp()
WHERE id = $1 AND status IN ('queued', 'retry_wait')
  AND (epoch > 0 AND error IS NULL OR kind = ANY($2))
RETURNING {_COLUMNS}
"""
_CANCEL_WAITING = f"""
UPDATE jobs SET status = 'cancelled', cancel_requested = true
WHERE id = $1 AND status = ANY($2) RETURNING {_COLUMNS}
"""
_REQUEUE_ONE = "UPDATE jobs SET status = 'queued' WHERE id = $1 AND status = 'retry_wait'"
_CANCEL_RUNNING = f"""
UPDATE jobs SET cancel_requested = true WHERE id = $1 AND status = 'running' RETURNING {_COLUMNS}
"""
_RETRY = f"""
UPDATE jobs SET status = 'queued', attempts = 0, error = NULL, cancel_requested = false,
  run_after = clock_timestamp()
WHERE id = $1 AND status = 'dead' RETURNING {_COLUMNS}
"""
_WAITING = """
SELECT id, kind, greatest(0, extract(epoch FROM run_after - clock_timestamp()))::float8 AS delay
FROM jobs WHERE status IN ('queued', 'retry_wait') ORDER BY priority DESC, run_after LIMIT $1
"""


class JobStore:
    """Reads and moves rows of ``jobs``."""

    def __init__(self, db: Database, *, max_attempts: int = 5) -> None:
        self._db = db
        self._max_attempts = max_attempts

    async def insert(self, connection: PoolConnectionProxy[asyncpg.Record], new: NewJob) -> Job:
        """Add a job inside the caller's transaction, so that it is there only if that commits.

        Announce the answer to the queue after the commit. With a ``dedupe_key`` of an open job,
        that job is answered instead.
        """
        row = await connection.fetchrow(
            _INSERT,
            new_id(),
            new.org_id,
            new.kind,
            new.payload,
            new.priority,
            new.max_attempts or self._max_attempts,
            new.delay_secs,
            new.dedupe_key,
        )
        if row is None:
            row = await connection.fetchrow(_BY_KEY, new.org_id, new.dedupe_key)
        if row is None:
            raise ConflictError("an equal job ended at this moment; ask again")
        return _job(row)

    async def get(self, org_id: UUID, job_id: UUID) -> Job:
        """One job.

        Raises:
            NotFoundError: there is none of that id in the organisation.
        """
        async with self._db.tenant(org_id) as connection:
            return _found(await connection.fetchrow(_GET, job_id), job_id)

    async def list(
        self,
        org_id: UUID,
        *,
        status: str | None = None,
        kind: str | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> list[Job]:
        """Jobs of an organisation, newest first, from ``before`` on."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, status, kind, before, limit)
        return [_job(row) for row in rows]

    async def claim(self, worker_id: str, kinds: Sequence[str], lease_secs: float) -> Job | None:
        """Take the job that is next: highest priority, then the organisation served longest ago.

        First brings back what lapsed: a job whose lease is over, and a retry whose time has come.
        """
        async with self._db.system() as connection:
            await connection.execute(_CLAIM_LOCK)
            await connection.execute(_LAPSE, sources_of(JOB, "retry_wait"))
            await connection.execute(_PROMOTE)
            row = await connection.fetchrow(
                _CLAIM,
                worker_id,
                list(kinds),
                RUNNING_PER_ORG,
                lease_secs,
                sources_of(JOB, "running"),
            )
        return None if row is None else _job(row)

    async def beat(self, job: Job, lease_secs: float, progress: Progress | None) -> bool:
        """Renew the lease and store progress; returns whether a cancel was asked for.

        Raises:
            LeaseLostError: another worker holds the job, or it has ended.
        """
        async with self._db.system() as connection:
            cancel = await connection.fetchval(
                _BEAT, job.id, job.epoch, lease_secs, progress and progress.model_dump()
            )
        if cancel is None:
            raise _lost(job)
        return bool(cancel)

    async def finish(
        self,
        job: Job,
        status: JobStatus,
        *,
        error: dict[str, Any] | None = None,
        delay_secs: float = 0.0,
        refund: bool = False,
    ) -> Job:
        """Move a job that this worker runs to ``status``.

        Args:
            job: as claimed; its epoch is the proof.
            status: where it goes.
            error: ``{code, message}`` to keep with it.
            delay_secs: how long a retry waits.
            refund: the attempt does not count (the worker was stopped).

        Raises:
            LeaseLostError: another worker holds the job, or it has ended.
        """
        async with self._db.system() as connection:
            row = await connection.fetchrow(
                _FINISH,
                job.id,
                job.epoch,
                status.value,
                error,
                delay_secs,
                refund,
                sources_of(JOB, status.value),
            )
        if row is None:
            raise _lost(job)
        return _job(row)

    async def lay_by(self, job: Job, secs: float) -> Job:
        """Let a job that this worker runs wait without a worker; the attempt does not count.

        Args:
            job: as claimed; its epoch is the proof.
            secs: until its next turn, unless ``wake`` brings that forward. At once where the job
                was woken, or its cancel asked for, since it was claimed.

        Raises:
            LeaseLostError: another worker holds the job, or it has ended.
        """
        sources = sources_of(JOB, JobStatus.RETRY_WAIT.value)
        async with self._db.system() as connection:
            row = await connection.fetchrow(_LAY_BY, job.id, job.epoch, secs, sources)
        if row is None:
            raise _lost(job)
        return _job(row)

    async def wake(
        self, connection: PoolConnectionProxy[asyncpg.Record], job_id: UUID
    ) -> Job | None:
        """Give a job that was laid by its turn now, or once its worker is about to lay it by.

        Inside the caller's transaction: what the job waits for has happened only if that commits.
        None = it neither waits nor runs.
        """
        row = await connection.fetchrow(_WAKE, job_id)
        return None if row is None else _job(row)

    async def cancel(self, org_id: UUID, job_id: UUID) -> Job:
        """Cancel a waiting job at once, or ask the worker of a running one to stop.

        One that was begun and laid by, or handed back, has its turn now and is asked as well, and
        so is one of ``HEARD``: what the job stands for is its handler's to end.

        Raises:
            NotFoundError: no such job.
            ConflictError: it has ended.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_CANCEL_BEGUN, job_id, list(HEARD))
            if row is not None:
                return _job(row)
            await connection.execute(_REQUEUE_ONE, job_id)  # retry_wait ends by way of queued
            row = await connection.fetchrow(_CANCEL_WAITING, job_id, ["queued"])
            if row is None:
                row = await connection.fetchrow(_CANCEL_RUNNING, job_id)
            if row is None:
                job = _found(await connection.fetchrow(_GET, job_id), job_id)
                raise _conflict(job, "cancelled", "only a job that is open can be")
        return _job(row)

    async def retry(self, org_id: UUID, job_id: UUID) -> Job:
        """Revive a dead job with all its attempts.

        Raises:
            NotFoundError: no such job.
            ConflictError: it is not dead, or an equal job is open.
        """
        try:
            async with self._db.tenant(org_id) as connection:
                row = await connection.fetchrow(_RETRY, job_id)
                if row is None:
                    job = _found(await connection.fetchrow(_GET, job_id), job_id)
                    raise _conflict(job, "retried", "only a dead job can be")
        except asyncpg.UniqueViolationError as error:
            raise ConflictError(
                "an equal job is open already; wait for it, or cancel it first",
                code="state_conflict",
            ) from error
        return _job(row)

    async def waiting(self, limit: int = 1000) -> list[tuple[UUID, str, float]]:
        """Id, kind and seconds to wait of the jobs that should be on a queue now."""
        async with self._db.system() as connection:
            rows = await connection.fetch(_WAITING, limit)
        return [(row["id"], row["kind"], row["delay"]) for row in rows]


def _job(row: asyncpg.Record) -> Job:
    return Job(**dict(row))


def _found(row: asyncpg.Record | None, job_id: UUID) -> Job:
    if row is None:
        raise NotFoundError(f"no job {encode('job', job_id)}; list the jobs to find the right one")
    return _job(row)


def _lost(job: Job) -> LeaseLostError:
    return LeaseLostError(
        f"job {encode('job', job.id)} is no longer this worker's; its result was not recorded",
        job_id=encode("job", job.id),
        epoch=job.epoch,
    )


def _conflict(job: Job, verb: str, rule: str) -> ConflictError:
    return ConflictError(
        f"job {encode('job', job.id)} is {job.status.value} and cannot be {verb}; {rule}",
        code="state_conflict",
        status=job.status.value,
    )
