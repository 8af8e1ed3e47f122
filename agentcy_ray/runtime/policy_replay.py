"""Replays as Ray tasks: a stretch of the audit log for each, their tallies added up by the job.

A task opens its own connection and reads its stretch; what goes to it are two policy sets, what
comes back is a tally of a few kilobytes. Reading has no effect, so Ray may repeat a task at will.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import ray

from agentcy_ray.audit.recorded import Stretch, inputs_in, stretch_of
from agentcy_ray.core.ids import decode
from agentcy_ray.core.settings import Settings
from agentcy_ray.jobs.records import Job, Progress
from agentcy_ray.jobs.worker import Beat, Handler
from agentcy_ray.policy.candidates import PolicySet
from agentcy_ray.policy.replay import Recorded, Tally
from agentcy_ray.policy.replays import JOB_KIND, ReplayStore
from agentcy_ray.policy.service import PolicyService
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.resolve import resolve_endpoints

SLICE = 10_000
"""Entries of one task: about two seconds of evaluation when nothing repeats."""
IN_FLIGHT = 32
"""Tasks that wait or run at once; Ray runs as many of them as the cluster has cores."""
_TASK_CPUS = 1.0


@dataclass(frozen=True)
class Slice:
    """The work of one task; small, and pickled on its way."""

    org_id: UUID
    stretch: Stretch
    before: PolicySet
    after: PolicySet
    timeout_ms: float


RunSlice = Callable[[Slice], Awaitable[Tally]]


class Replayer:
    """Does the jobs of kind ``policy_replay``."""

    def __init__(
        self, db: Database, policy: PolicyService, run_slice: RunSlice, *, slice_size: int = SLICE
    ) -> None:
        """Work on ``db``, stretch by stretch by ``run_slice``: ``on_ray``, or in this process."""
        self._db = db
        self._policy = policy
        self._replays = ReplayStore(db)
        self._run_slice = run_slice
        self._slice_size = slice_size

    def handlers(self) -> Mapping[str, Handler]:
        """For a ``JobWorker``."""
        return {JOB_KIND: self._replay}

    async def _replay(self, job: Job, beat: Beat) -> None:
        replay = await self._replays.get(job.org_id, decode("rpl", job.payload["replay_id"]))
        stretch = await stretch_of(self._db, job.org_id, replay.since, replay.until)
        pieces = [] if stretch is None else stretch.cut(self._slice_size)
        before = await self._policy.policy_set(job.org_id)
        after = await self._policy.policy_set(job.org_id, replay.candidate)
        total = Tally()
        room = asyncio.Semaphore(IN_FLIGHT)
        done = 0

        async def work(piece: Stretch) -> None:
            nonlocal done
            async with room:
                beat.check()
                total.merge(
                    await self._run_slice(
                        Slice(job.org_id, piece, before, after, self._policy.timeout_ms)
                    )
                )
            done += 1
            beat.progress(Progress(done=done, total=len(pieces), unit="stretches"))

        tasks = [asyncio.create_task(work(piece)) for piece in pieces]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        await self._replays.finish(job.org_id, replay.id, total.report())


async def tally_of(db: Database, work: Slice) -> Tally:
    """Replay one stretch in this process."""
    before, after = work.before.compile(work.timeout_ms), work.after.compile(work.timeout_ms)
    tally = Tally()
    async for rows in inputs_in(db, work.org_id, work.stretch):
        tally.replay(before, after, [Recorded(*row) for row in rows])
    return tally


async def on_ray(work: Slice) -> Tally:
    """Replay one stretch as a Ray task."""
    reference: Any = _remote_task().remote(work)
    try:
        return await reference
    except asyncio.CancelledError:
        ray.cancel(reference)
        raise


def _task(work: Slice) -> Tally:
    async def run() -> Tally:
        settings = Settings.load()
        endpoints = await resolve_endpoints(settings)
        db = await open_database(
            endpoints.database_url,
            pool_max=1,
            statement_cache=settings.database_statement_cache,
        )
        try:
            return await tally_of(db, work)
        finally:
            await db.close()

    return asyncio.run(run())


@cache
def _remote_task() -> Any:
    return ray.remote(num_cpus=_TASK_CPUS, max_retries=3)(_task)
