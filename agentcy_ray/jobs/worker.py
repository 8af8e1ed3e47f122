"""The job worker: claims jobs, runs their handlers, keeps their leases alive.

A handler may run twice (after a crash, after a lapsed lease), so it must be idempotent, and it
proves itself to the stores by ``beat.epoch``. Cancelling is cooperative: the handler looks at
``beat.cancelled`` or calls ``beat.check()``; nothing is cut off in the middle of a publish.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from agentcy_ray.core.errors import (
    CancelledByRequestError,
    LeaseLostError,
    StoreUnavailableError,
)
from agentcy_ray.core.ids import encode
from agentcy_ray.jobs.queue import JobQueue
from agentcy_ray.jobs.records import Job, Progress

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.bell import Bell

TICK_SECS = 1.0
"""Progress is stored, and a cancel seen, at most this late."""
IDLE_SECS = 5.0
RECONCILE_SECS = 30.0
DRAIN_SECS = 30.0
AWAY_SECS = 2.0

_log = structlog.get_logger(__name__)


class Beat:
    """What a handler has of its job: the fence, the wish to cancel, and a place for progress."""

    def __init__(self, epoch: int = 0, *, last_attempt: bool = False) -> None:
        self.epoch = epoch
        """Grows with each claim of the job; an older one is refused by the stores."""
        self.last_attempt = last_attempt
        """Whether a failure now, even a passing one, is the end of the job."""
        self.cancelled = False
        """Whether somebody asked for the job to stop."""
        self.latest: Progress | None = None
        self.again_in: float | None = None
        """Seconds after which the job is to be gone on with; None = it is done."""

    def lay_by(self, secs: float) -> None:
        """Have the job wait without a worker once the handler returns, which it does next.

        Args:
            secs: until the handler is called again, or less: ``JobStore.wake`` ends the wait.
        """
        self.again_in = secs

    def progress(self, progress: Progress) -> None:
        """Say how far the work is; cheap, may be called as often as one likes."""
        self.latest = progress

    def check(self) -> None:
        """Stop here when a cancel was asked for.

        Raises:
            CancelledByRequestError: somebody did.
        """
        if self.cancelled:
            raise CancelledByRequestError("cancelled by request; start it again when you want it")


Handler = Callable[[Job, Beat], Awaitable[None]]
"""Does one job. Returns when it is done, or waits for others (``Beat.lay_by``); raises what went
wrong."""


class JobWorker:
    """Runs up to ``concurrency`` jobs at a time until told to stop."""

    def __init__(
        self,
        queue: JobQueue,
        handlers: Mapping[str, Handler],
        worker_id: str,
        settings: Settings,
        *,
        bell: Bell | None = None,
        concurrency: int = 1,
        drain_secs: float = DRAIN_SECS,
    ) -> None:
        self._queue = queue
        self._handlers = dict(handlers)
        self._worker_id = worker_id
        self._lease_secs = settings.job_lease_secs
        self._heartbeat_secs = settings.job_heartbeat_secs
        self._bell = bell
        self._concurrency = concurrency
        self._drain_secs = drain_secs
        self.current: dict[str, str] = {}
        """Job id → kind of what runs now."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then finish or hand back what runs, and return."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._work(stop))
            group.create_task(self._reconcile(stop))

    async def _work(self, stop: asyncio.Event) -> None:
        kinds = sorted(self._handlers)
        while not stop.is_set():
            try:
                job = await self._queue.claim(self._worker_id, kinds, self._lease_secs)
                if job is not None:
                    await self._execute(job, stop)
                else:
                    await _until(stop, self._queue.wait(kinds, IDLE_SECS))
            except StoreUnavailableError as error:
                _log.warning("job_worker_waits", reason=error.message)
                await _until(stop, asyncio.sleep(AWAY_SECS))

    async def _reconcile(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._queue.reconcile()
            except StoreUnavailableError as error:
                _log.warning("job_reconcile_waits", reason=error.message)
            await _until(stop, asyncio.sleep(RECONCILE_SECS))

    async def _execute(self, job: Job, stop: asyncio.Event) -> None:
        beat = Beat(job.epoch, last_attempt=job.attempts >= job.max_attempts)
        beat.cancelled = job.cancel_requested
        name = encode("job", job.id)
        self.current[name] = job.kind
        task = asyncio.ensure_future(self._handlers[job.kind](job, beat))
        try:
            released = await self._accompany(job, beat, task, stop)
            if not released:
                await self._settle(job, beat, task)
        except LeaseLostError as error:
            _log.warning("job_lease_lost", job_id=name, reason=error.message)
        finally:
            await _end(task)
            del self.current[name]

    async def _accompany(
        self, job: Job, beat: Beat, task: asyncio.Future[None], stop: asyncio.Event
    ) -> bool:
        """Keep the lease until the handler ends; True when the job was handed back instead."""
        renewed = time.monotonic()
        deadline: float | None = None
        while not task.done():
            await asyncio.wait({task}, timeout=min(TICK_SECS, self._lease_secs / 4))
            now = time.monotonic()
            if stop.is_set():
                deadline = deadline or now + self._drain_secs
                if now >= deadline and not task.done():
                    await _end(task)
                    await self._queue.release(job)
                    return True
            progress, beat.latest = beat.latest, None
            try:
                beat.cancelled |= await self._queue.beat(job, self._lease_secs, progress)
                renewed = now
            except StoreUnavailableError:
                # The lease still stands for a while; past it somebody else may have the job.
                if now - renewed > self._lease_secs:
                    raise LeaseLostError("Postgres was away for longer than the lease") from None
            if progress is not None:
                await self._ring(job, {"progress": progress.model_dump()})
        return False

    async def _settle(self, job: Job, beat: Beat, task: asyncio.Future[None]) -> None:
        ended = await self._ended(job, beat, task)
        await self._ring(job, {"status": ended.status.value})

    async def _ended(self, job: Job, beat: Beat, task: asyncio.Future[None]) -> Job:
        try:
            await task
        except CancelledByRequestError:
            return await self._queue.cancelled(job)
        except LeaseLostError:
            raise
        except Exception as error:  # noqa: BLE001 - a handler's fault is kept with its job
            ended = await self._queue.fail(job, error)
            _log.warning(
                "job_failed",
                job_id=encode("job", job.id),
                kind=job.kind,
                attempt=job.attempts,
                status=ended.status.value,
                exc_info=error,
            )
            return ended
        if beat.again_in is not None:
            return await self._queue.lay_by(job, beat.again_in)
        return await self._queue.succeed(job)

    async def _ring(self, job: Job, news: dict[str, Any]) -> None:
        if self._bell is not None:
            payload = {"job_id": encode("job", job.id), "kind": job.kind, **news}
            await self._bell.ring(f"ch:jobs:{job.org_id.hex}", payload)


async def _until(stop: asyncio.Event, waiting: Awaitable[None]) -> None:
    """Await ``waiting``, or less when ``stop`` is set before."""
    task = asyncio.ensure_future(waiting)
    bell = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, bell}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for each in (task, bell):
            await _end(each)


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has let go of what it held."""
    if task.done():
        return
    task.cancel()
    await asyncio.wait({task})
