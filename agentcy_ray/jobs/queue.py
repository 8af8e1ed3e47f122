"""The job queue: what is asked of one, and what all share.

The row in Postgres is the truth and every move is made there. A queue only carries ids, that is the
news that some job of a kind may be ready; news that is lost is found again by ``reconcile``, news
that comes twice meets a row that has moved on. So a backend has four small duties (the hooks of
``RowQueue``) and none of them can lose or double a job.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import structlog

from agentcy_ray.core.errors import AgentcyError, StoreUnavailableError, Terminal
from agentcy_ray.jobs.records import Job, JobStatus, NewJob, Progress, QueueName, queue_of
from agentcy_ray.jobs.store import JobStore

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.postgres import Database

__all__ = ["Job", "JobQueue", "JobStatus", "JobStore", "NewJob", "Progress", "RowQueue"]

RETRY_BASE_SECS = 5.0
RETRY_MAX_SECS = 900.0
RETRY_SPREAD = 0.2

_log = structlog.get_logger(__name__)


class JobQueue(Protocol):
    """A queue of jobs; its conformance suite is ``tests/jobs/test_queue_conformance.py``."""

    @property
    def store(self) -> JobStore:
        """The rows."""
        ...

    async def enqueue(self, new: NewJob) -> Job:
        """Store a job and announce it."""
        ...

    async def announce(self, job: Job) -> None:
        """Spread the news of a job that was inserted by ``store.insert``; never fails."""
        ...

    async def claim(self, worker_id: str, kinds: Sequence[str], lease_secs: float) -> Job | None:
        """The next job of these kinds, now this worker's for ``lease_secs``; None when idle."""
        ...

    async def wait(self, kinds: Sequence[str], timeout_secs: float) -> None:
        """Return when a job of these kinds may be ready, or after the time; may return early."""
        ...

    async def beat(self, job: Job, lease_secs: float, progress: Progress | None = None) -> bool:
        """Renew the lease; returns whether a cancel was asked for.

        Raises:
            LeaseLostError: the job is no longer this worker's.
        """
        ...

    async def succeed(self, job: Job) -> Job:
        """End a job well."""
        ...

    async def fail(self, job: Job, error: BaseException) -> Job:
        """End an attempt badly: another one later, or ``dead``."""
        ...

    async def release(self, job: Job) -> Job:
        """Hand a job back at once without counting the attempt (the worker stops)."""
        ...

    async def lay_by(self, job: Job, secs: float) -> Job:
        """Let a job wait without a worker for ``secs``, or until ``store.wake``; uncounted."""
        ...

    async def cancelled(self, job: Job) -> Job:
        """End a running job because a cancel was asked for and obeyed."""
        ...

    async def cancel(self, org_id: UUID, job_id: UUID) -> Job:
        """Cancel a waiting job, or ask one that was begun to stop."""
        ...

    async def retry(self, org_id: UUID, job_id: UUID) -> Job:
        """Revive a dead job."""
        ...

    async def reconcile(self) -> int:
        """Announce every job that waits in Postgres; returns how many."""
        ...

    async def close(self) -> None:
        """Let go of connections of its own."""
        ...


class RowQueue(ABC):
    """Everything of a queue that does not depend on what carries the ids.

    A backend overrides ``offer`` and ``wait``, and may override ``hold`` and ``settle``. It is made
    as ``Class(settings, db, redis)``.
    """

    def __init__(self, settings: Settings, db: Database, redis: Any = None) -> None:
        self.settings = settings
        self.db = db
        self.redis = redis
        self.random: Callable[[], float] = random.random
        self._store = JobStore(db, max_attempts=settings.job_max_attempts)

    # -- the duties of a backend ----------------------------------------------------------

    @abstractmethod
    async def offer(self, job_id: UUID, queue: QueueName, delay_secs: float) -> None:
        """Carry the news that a job is ready after ``delay_secs``; offering twice is harmless."""

    @abstractmethod
    async def wait(self, kinds: Sequence[str], timeout_secs: float) -> None:
        """Return on news for these kinds, or after the time."""

    async def hold(self, job: Job, lease_secs: float) -> None:  # noqa: B027 - optional
        """Learn that a worker holds a job for so long."""

    async def settle(self, job: Job) -> None:  # noqa: B027 - optional
        """Learn that a job is held no more."""

    async def close(self) -> None:  # noqa: B027 - optional
        """Let go of connections of its own."""

    # -- shared ---------------------------------------------------------------------------

    @property
    def store(self) -> JobStore:
        """The rows."""
        return self._store

    async def enqueue(self, new: NewJob) -> Job:
        """Store a job and announce it."""
        async with self.db.tenant(new.org_id) as connection:
            job = await self._store.insert(connection, new)
        await self._offer(job.id, job.kind, new.delay_secs)
        return job

    async def announce(self, job: Job) -> None:
        """Spread the news of a job that was inserted by ``store.insert``."""
        await self._offer(job.id, job.kind, 0.0)

    async def claim(self, worker_id: str, kinds: Sequence[str], lease_secs: float) -> Job | None:
        """The next job of these kinds."""
        job = await self._store.claim(worker_id, kinds, lease_secs)
        if job is not None:
            await self._tell(self.hold(job, lease_secs))
        return job

    async def beat(self, job: Job, lease_secs: float, progress: Progress | None = None) -> bool:
        """Renew the lease."""
        cancel = await self._store.beat(job, lease_secs, progress)
        await self._tell(self.hold(job, lease_secs))
        return cancel

    async def succeed(self, job: Job) -> Job:
        """End a job well."""
        return await self._end(job, JobStatus.SUCCEEDED)

    async def fail(self, job: Job, error: BaseException) -> Job:
        """Another attempt after a growing delay; ``dead`` on a terminal error or the last one."""
        body = (
            error.body()
            if isinstance(error, AgentcyError)
            else {"code": "internal", "message": f"{type(error).__name__}: {error}", "details": {}}
        )
        if isinstance(error, Terminal) or job.attempts >= job.max_attempts:
            return await self._end(job, JobStatus.DEAD, error=body)
        delay = retry_delay(job.attempts, self.random())
        ended = await self._end(job, JobStatus.RETRY_WAIT, error=body, delay_secs=delay)
        await self._offer(job.id, job.kind, delay)
        return ended

    async def release(self, job: Job) -> Job:
        """Hand a job back at once; the attempt does not count."""
        ended = await self._end(job, JobStatus.RETRY_WAIT, refund=True)
        await self._offer(job.id, job.kind, 0.0)
        return ended

    async def lay_by(self, job: Job, secs: float) -> Job:
        """Let a job wait without a worker."""
        waiting = await self._store.lay_by(job, secs)
        await self._tell(self.settle(waiting))
        left = (waiting.run_after - waiting.updated_at).total_seconds()  # it may have been woken
        await self._offer(job.id, job.kind, max(0.0, left))
        return waiting

    async def cancelled(self, job: Job) -> Job:
        """End a running job as cancelled."""
        return await self._end(job, JobStatus.CANCELLED)

    async def cancel(self, org_id: UUID, job_id: UUID) -> Job:
        """Cancel a waiting job, or ask a running one to stop."""
        job = await self._store.cancel(org_id, job_id)
        if job.status in {JobStatus.QUEUED, JobStatus.RETRY_WAIT}:  # its handler is to hear of it
            await self.announce(job)
        return job

    async def retry(self, org_id: UUID, job_id: UUID) -> Job:
        """Revive a dead job."""
        job = await self._store.retry(org_id, job_id)
        await self.announce(job)
        return job

    async def reconcile(self) -> int:
        """Announce every job that waits in Postgres."""
        waiting = await self._store.waiting()
        for job_id, kind, delay in waiting:
            await self._offer(job_id, kind, delay)
        return len(waiting)

    async def _end(self, job: Job, status: JobStatus, **how: Any) -> Job:
        ended = await self._store.finish(job, status, **how)
        await self._tell(self.settle(ended))
        return ended

    async def _offer(self, job_id: UUID, kind: str, delay_secs: float) -> None:
        await self._tell(self.offer(job_id, queue_of(kind), delay_secs))

    async def _tell(self, message: Any) -> None:
        """Send news; the row is committed, so a carrier that is away costs time and no job."""
        try:
            await message
        except StoreUnavailableError as error:
            _log.warning("job_news_lost", reason=error.message)


def retry_delay(attempts: int, chance: float) -> float:
    """Seconds before the next attempt: 5 × 2ⁿ ± 20 %, at most 15 minutes.

    Args:
        attempts: attempts made so far, 1 after the first.
        chance: a number in [0, 1) that places the delay within its spread.
    """
    base = min(RETRY_BASE_SECS * 2 ** max(0, attempts - 1), RETRY_MAX_SECS)
    return min(base * (1 - RETRY_SPREAD + 2 * RETRY_SPREAD * chance), RETRY_MAX_SECS)
