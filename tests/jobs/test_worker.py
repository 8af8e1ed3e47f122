"""The worker: leases, progress, cancelling, draining, and what a kill leaves."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from agentcy_ray.core.errors import InvalidError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.queue import JobStatus, NewJob, Progress
from agentcy_ray.jobs.redis_queue import RedisQueue
from agentcy_ray.jobs.worker import Beat, Job, JobWorker
from agentcy_ray.stores.bell import Bell

Handler = Callable[[Job, Beat], Awaitable[None]]


@pytest.fixture
def quick(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Workers look often at their jobs, and no machine is too busy to renew a lease."""
    monkeypatch.setattr("agentcy_ray.jobs.worker.TICK_SECS", 0.2)
    return settings.model_copy(update={"job_lease_secs": 60.0, "job_heartbeat_secs": 0.2})


class _Telling:
    """Says when a job of this process was claimed, renewed or ended."""

    def __init__(self, *args, **how) -> None:
        super().__init__(*args, **how)
        self._moved = asyncio.Condition()

    async def hold(self, job: Job, lease_secs: float) -> None:
        await super().hold(job, lease_secs)
        await self._tell_all()

    async def settle(self, job: Job) -> None:
        await super().settle(job)
        await self._tell_all()

    async def _tell_all(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def moved(self) -> None:
        """Return at the next move."""
        async with self._moved:
            await self._moved.wait()

    async def job_when(self, org, job_id, wanted: Callable[[Job], bool]) -> Job:
        """The job once it is as wanted."""
        async with asyncio.timeout(60), self._moved:
            while not wanted(job := await self.store.get(org, job_id)):
                await self._moved.wait()
        return job


class TellingRedisQueue(_Telling, RedisQueue):
    pass


class TellingPostgresQueue(_Telling, PostgresQueue):
    pass


@pytest.fixture
def queue(db, redis, quick: Settings) -> TellingRedisQueue:
    return TellingRedisQueue(quick, db, redis)


@pytest.fixture
def kind() -> str:
    return f"kind-{secrets.token_hex(6)}"


@asynccontextmanager
async def working(queue, settings, handlers, **how):
    stop = asyncio.Event()
    worker = JobWorker(queue, handlers, f"w-{secrets.token_hex(3)}", settings, **how)
    task = asyncio.create_task(worker.run(stop))
    try:
        yield worker, stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


async def ended(queue, org, job_id) -> Job:
    return await queue.job_when(
        org, job_id, lambda job: not job.open or job.status == JobStatus.RETRY_WAIT
    )


async def test_jobs_are_run_with_their_payload_and_end_succeeded(queue, quick, org, kind):
    seen: list[dict] = []

    async def handler(job: Job, beat: Beat) -> None:
        assert beat.epoch == job.epoch
        seen.append(job.payload)

    async with working(queue, quick, {kind: handler}, concurrency=3):
        jobs = [
            await queue.enqueue(NewJob(org_id=org, kind=kind, payload={"n": n})) for n in range(9)
        ]
        for job in jobs:
            assert (await ended(queue, org, job.id)).status is JobStatus.SUCCEEDED
    assert sorted(payload["n"] for payload in seen) == list(range(9))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidError("wrong"), "dead", "validation_failed"),
        (StoreUnavailableError("away"), "retry_wait", "unavailable"),
        (ZeroDivisionError("bug"), "retry_wait", "internal"),
    ],
)
async def test_what_a_handler_raises_is_kept_with_its_job(
    queue, quick, org, kind, error, status, code
):
    async def handler(job: Job, beat: Beat) -> None:
        raise error

    async with working(queue, quick, {kind: handler}):
        made = await queue.enqueue(NewJob(org_id=org, kind=kind))
        job = await ended(queue, org, made.id)
    assert job.status == status
    assert job.error is not None
    assert job.error["code"] == code


async def test_a_long_job_keeps_its_lease_and_shows_progress(queue, redis, quick, org, kind):
    bell = Bell(redis)
    go = asyncio.Event()

    async def handler(job: Job, beat: Beat) -> None:
        beat.progress(Progress(done=1, total=2, unit="rows"))
        await go.wait()

    async with (
        working(queue, quick, {kind: handler}, bell=bell),
        bell.listen(f"ch:jobs:{org.hex}") as ear,
    ):
        made = await queue.enqueue(NewJob(org_id=org, kind=kind))
        rung = await ear.next(30)
        assert rung is not None
        assert rung["progress"]["done"] == 1
        first = await queue.store.get(org, made.id)
        now = await queue.job_when(org, made.id, lambda job: job.lease_until > first.lease_until)
        assert (now.attempts, now.epoch) == (1, 1)
        go.set()
        assert (await ended(queue, org, made.id)).status is JobStatus.SUCCEEDED
        async with asyncio.timeout(60):
            while (rung := await ear.next(30)) is None or "status" not in rung:
                pass
        assert rung["status"] == "succeeded"
    await bell.aclose()


async def test_a_cancelled_job_stops_at_the_next_sign_of_its_worker(queue, quick, org, kind):
    started = asyncio.Event()

    async def handler(job: Job, beat: Beat) -> None:
        started.set()
        while True:
            beat.check()
            await queue.moved()

    async with working(queue, quick, {kind: handler}):
        made = await queue.enqueue(NewJob(org_id=org, kind=kind))
        await asyncio.wait_for(started.wait(), 60)
        await queue.cancel(org, made.id)
        assert (await ended(queue, org, made.id)).status is JobStatus.CANCELLED


async def test_a_job_that_waits_for_another_leaves_it_the_only_slot(queue, quick, org, kind):
    seen: list[str] = []

    async def handler(job: Job, beat: Beat) -> None:
        seen.append(job.payload["name"])
        if job.payload["name"] == "second":
            async with queue.db.tenant(org) as connection:
                await queue.store.wake(connection, first.id)
        elif "second" not in seen:
            beat.lay_by(3600)

    first = await queue.enqueue(NewJob(org_id=org, kind=kind, payload={"name": "first"}))
    async with working(queue, quick, {kind: handler}):
        await queue.job_when(org, first.id, lambda job: job.status is JobStatus.RETRY_WAIT)
        await queue.enqueue(NewJob(org_id=org, kind=kind, payload={"name": "second"}))
        done = await queue.job_when(org, first.id, lambda job: not job.open)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)
    assert seen == ["first", "second", "first"]


async def test_a_stopped_worker_hands_its_job_back_uncounted(queue, quick, org, kind):
    started = asyncio.Event()

    async def handler(job: Job, beat: Beat) -> None:
        started.set()
        await asyncio.Event().wait()

    async with working(queue, quick, {kind: handler}, drain_secs=0.0):
        made = await queue.enqueue(NewJob(org_id=org, kind=kind))
        await asyncio.wait_for(started.wait(), 60)
    job = await queue.claim("next", [kind], 30)
    assert job is not None
    assert (job.id, job.attempts) == (made.id, 1)


async def test_a_worker_that_lost_its_lease_records_nothing(queue, db, quick, org, kind):
    started, go = asyncio.Event(), asyncio.Event()

    async def handler(job: Job, beat: Beat) -> None:
        started.set()
        await go.wait()

    async with working(queue, quick, {kind: handler}):
        made = await queue.enqueue(NewJob(org_id=org, kind=kind))
        await asyncio.wait_for(started.wait(), 60)
        async with db.system() as connection:  # as a successor's claim would
            await connection.execute(
                "UPDATE jobs SET epoch = epoch + 1, worker_id = 'other',"
                " lease_until = clock_timestamp() + interval '1 hour' WHERE id = $1",
                made.id,
            )
        go.set()
    job = await queue.store.get(org, made.id)
    assert (job.status, job.worker_id) == (JobStatus.RUNNING, "other")


KILLED = """
import asyncio, sys
from agentcy_ray.core.settings import Settings
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import JobWorker
from agentcy_ray.stores.postgres import open_database

async def handler(job, beat):
    print("started", flush=True)
    await asyncio.Event().wait()

async def main(url, kind):
    settings = Settings.load({})
    queue = PostgresQueue(settings, await open_database(url))
    await JobWorker(queue, {kind: handler}, "victim", settings).run(asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.requirement("JOB-05")
@pytest.mark.chaos
async def test_the_job_of_a_killed_worker_is_run_by_another_after_its_lease(
    make_database, quick, org, kind, db
):
    url = db._pool._connect_args[0]
    queue = TellingPostgresQueue(quick, db)
    made = await queue.enqueue(NewJob(org_id=org, kind=kind))
    victim = subprocess.Popen([sys.executable, "-c", KILLED, url, kind], stdout=subprocess.PIPE)
    try:
        assert victim.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(victim.stdout.readline), 30)
        assert line == b"started\n"
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    assert await queue.claim("early", [kind], 30) is None
    async with db.system() as connection:
        await connection.execute(
            "UPDATE jobs SET lease_until = clock_timestamp() WHERE id = $1", made.id
        )
    ran: list[Job] = []

    async def handler(job: Job, beat: Beat) -> None:
        ran.append(job)

    async with working(queue, quick, {kind: handler}):
        job = await ended(queue, org, made.id)
    assert job.status is JobStatus.SUCCEEDED
    assert [(job.attempts, job.epoch) for job in ran] == [(2, 2)]
