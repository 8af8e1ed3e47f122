"""One suite that every job queue passes, chosen by the setting as an operator would."""

from __future__ import annotations

import asyncio
import secrets
from uuid import UUID

import pytest

from agentcy_ray.core.errors import (
    ConfigError,
    ConflictError,
    InvalidError,
    LeaseLostError,
    NotFoundError,
    StoreUnavailableError,
)
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.jobs.opening import open_queue
from agentcy_ray.jobs.queue import JobQueue, JobStatus, NewJob, Progress, retry_delay
from agentcy_ray.jobs.store import RUNNING_PER_ORG
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.redis import RedisStore
from tests.jobs.conftest import add_org

BACKENDS = ("redis", "postgres", "tests.jobs.custom_queue:ListQueue")
LEASE = 30.0


@pytest.fixture(params=BACKENDS)
def queue(
    request: pytest.FixtureRequest, db: Database, redis: RedisStore, settings: Settings
) -> JobQueue:
    chosen = settings.model_copy(update={"job_queue_backend": request.param})
    return open_queue(chosen, db, redis)


@pytest.fixture
def kind() -> str:
    return f"kind-{secrets.token_hex(6)}"


async def claim(queue: JobQueue, kind: str, worker: str = "w1"):
    return await queue.claim(worker, [kind], LEASE)


async def due_now(db: Database, job_id: UUID) -> None:
    async with db.system() as connection:
        await connection.execute(
            "UPDATE jobs SET run_after = clock_timestamp() WHERE id = $1", job_id
        )


async def put_off(db: Database, job_id: UUID) -> None:
    """Give a job that waits an hour more, whatever the machine does meanwhile."""
    async with db.system() as connection:
        await connection.execute(
            "UPDATE jobs SET run_after = run_after + interval '1 hour' WHERE id = $1", job_id
        )


async def lapse(db: Database, job_id: UUID) -> None:
    async with db.system() as connection:
        await connection.execute(
            "UPDATE jobs SET lease_until = clock_timestamp() - interval '1s' WHERE id = $1", job_id
        )


@pytest.mark.requirement("JOB-02")
async def test_a_job_goes_to_one_worker_and_ends_succeeded(queue, org, kind):
    made = await queue.enqueue(NewJob(org_id=org, kind=kind, payload={"n": 1}))
    job = await claim(queue, kind)
    assert job is not None
    assert (job.id, job.payload, job.status, job.attempts) == (made.id, {"n": 1}, "running", 1)
    assert await claim(queue, kind, "w2") is None
    assert (await queue.succeed(job)).status is JobStatus.SUCCEEDED
    assert await claim(queue, kind) is None


async def test_many_workers_share_jobs_without_doubling_any(queue, org, kind):
    made = [await queue.enqueue(NewJob(org_id=org, kind=kind)) for _ in range(7)]
    taken = await asyncio.gather(*(claim(queue, kind, f"w{n}") for n in range(20)))
    assert sorted(job.id for job in taken if job) == sorted(job.id for job in made)


async def test_news_of_a_job_ends_a_wait(queue, org, kind):
    async def announce() -> None:
        await queue.enqueue(NewJob(org_id=org, kind=kind))

    async with asyncio.timeout(50):
        await asyncio.gather(queue.wait([kind], 60), announce())
        while await claim(queue, kind) is None:
            await queue.wait([kind], 1)


async def test_higher_priority_goes_first(queue, org, kind):
    for priority in (3, 9, 5):
        await queue.enqueue(NewJob(org_id=org, kind=kind, priority=priority))
    order = []
    while (job := await claim(queue, kind)) is not None:
        order.append(job.priority)
    assert order == [9, 5, 3]


async def test_organisations_take_turns(queue, db, org, kind):
    other = await add_org(db)
    for _ in range(4):
        await queue.enqueue(NewJob(org_id=org, kind=kind))
    await queue.enqueue(NewJob(org_id=other, kind=kind))
    order = []
    while (job := await claim(queue, kind)) is not None:
        order.append(job.org_id)
        await queue.succeed(job)
    assert order.index(other) <= 1


async def test_one_organisation_cannot_take_every_worker(queue, org, kind):
    for _ in range(RUNNING_PER_ORG + 2):
        await queue.enqueue(NewJob(org_id=org, kind=kind))
    running = [await claim(queue, kind) for _ in range(RUNNING_PER_ORG)]
    assert all(running)
    assert await claim(queue, kind) is None
    await queue.succeed(running[0])
    assert await claim(queue, kind) is not None


@pytest.mark.requirement("JOB-05")
async def test_a_lapsed_lease_goes_to_another_worker_and_fences_the_first(queue, db, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    first = await claim(queue, kind, "w1")
    assert first is not None
    assert await claim(queue, kind, "w2") is None
    await lapse(db, first.id)
    second = await claim(queue, kind, "w2")
    assert second is not None
    assert (second.id, second.worker_id, second.attempts) == (first.id, "w2", 2)
    assert second.epoch > first.epoch
    for late in (queue.beat(first, LEASE), queue.succeed(first), queue.fail(first, OSError("x"))):
        with pytest.raises(LeaseLostError):
            await late
    assert (await queue.succeed(second)).status is JobStatus.SUCCEEDED


@pytest.mark.requirement("JOB-06")
async def test_a_failing_job_is_retried_with_growing_delays_then_dead_then_revived(
    queue, db, org, kind
):
    made = await queue.enqueue(NewJob(org_id=org, kind=kind, max_attempts=4))
    delays: list[float] = []
    for _ in range(3):
        job = await claim(queue, kind)
        assert job is not None
        failed = await queue.fail(job, StoreUnavailableError("the graph is away"))
        assert failed.status is JobStatus.RETRY_WAIT
        delays.append((failed.run_after - failed.updated_at).total_seconds())
        await put_off(db, made.id)
        assert await claim(queue, kind) is None, "not before its time"
        await due_now(db, made.id)
    assert [round(a / b) for a, b in zip(delays, (5, 10, 20), strict=True)] == [1, 1, 1]
    last = await claim(queue, kind)
    assert last is not None
    dead = await queue.fail(last, StoreUnavailableError("the graph is away"))
    assert dead.status is JobStatus.DEAD
    assert dead.error is not None
    assert dead.error["code"] == "unavailable"
    assert await claim(queue, kind) is None
    revived = await queue.retry(org, made.id)
    assert (revived.status, revived.attempts, revived.error) == (JobStatus.QUEUED, 0, None)
    assert await claim(queue, kind) is not None


async def test_a_terminal_error_ends_a_job_at_once(queue, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    job = await claim(queue, kind)
    assert job is not None
    assert (await queue.fail(job, InvalidError("no"))).status is JobStatus.DEAD


async def test_a_worker_lost_at_the_last_attempt_leaves_a_dead_job(queue, db, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind, max_attempts=1))
    job = await claim(queue, kind)
    assert job is not None
    await lapse(db, job.id)
    assert await claim(queue, kind) is None
    dead = await queue.store.get(org, job.id)
    assert dead.status is JobStatus.DEAD
    assert dead.error is not None
    assert dead.error["code"] == "worker_lost"


async def test_a_released_job_is_ready_at_once_and_keeps_its_attempts(queue, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    job = await claim(queue, kind)
    assert job is not None
    await queue.release(job)
    again = await claim(queue, kind)
    assert again is not None
    assert again.attempts == 1


async def test_a_job_that_is_laid_by_waits_without_a_worker_until_it_is_woken(queue, db, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind, max_attempts=1))
    job = await claim(queue, kind)
    assert job is not None
    waiting = await queue.lay_by(job, 3600)
    assert (waiting.status, waiting.attempts) == (JobStatus.RETRY_WAIT, 0)
    assert await claim(queue, kind) is None
    async with db.tenant(org) as connection:
        assert await queue.store.wake(connection, job.id) is not None
    again = await claim(queue, kind)
    assert again is not None
    assert (again.attempts, again.epoch) == (1, 2)
    with pytest.raises(LeaseLostError):
        await queue.lay_by(job, 3600)
    await queue.succeed(again)
    async with db.tenant(org) as connection:
        assert await queue.store.wake(connection, job.id) is None


async def test_a_job_that_is_woken_before_it_is_laid_by_has_its_turn_at_once(queue, db, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    for _ in range(2):  # a turn that was woken says nothing of the next
        job = await claim(queue, kind)
        assert job is not None
        async with db.tenant(org) as connection:
            await queue.store.wake(connection, job.id)
        await queue.lay_by(job, 3600)
    job = await claim(queue, kind)
    assert job is not None
    await queue.lay_by(job, 3600)
    assert await claim(queue, kind) is None


async def test_the_handler_of_a_job_that_was_laid_by_hears_of_its_cancel(queue, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    job = await claim(queue, kind)
    assert job is not None
    await queue.lay_by(job, 3600)
    assert (await queue.cancel(org, job.id)).open
    job = await claim(queue, kind)
    assert job is not None
    assert job.cancel_requested
    await queue.lay_by(job, 3600)
    job = await claim(queue, kind)
    assert job is not None, "nor does it sleep over it"
    assert (await queue.cancelled(job)).status is JobStatus.CANCELLED


async def test_cancelling_stops_a_waiting_job_and_asks_a_running_one(queue, org, kind):
    waiting = await queue.enqueue(NewJob(org_id=org, kind=kind))
    assert (await queue.cancel(org, waiting.id)).status is JobStatus.CANCELLED
    assert await claim(queue, kind) is None
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    job = await claim(queue, kind)
    assert job is not None
    assert await queue.beat(job, LEASE) is False
    assert (await queue.cancel(org, job.id)).status is JobStatus.RUNNING
    assert await queue.beat(job, LEASE) is True
    assert (await queue.cancelled(job)).status is JobStatus.CANCELLED
    with pytest.raises(ConflictError):
        await queue.cancel(org, job.id)
    with pytest.raises(ConflictError):
        await queue.retry(org, job.id)


async def test_a_job_that_waits_for_a_retry_can_be_cancelled(queue, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    job = await claim(queue, kind)
    assert job is not None
    await queue.fail(job, StoreUnavailableError("away"))
    assert (await queue.cancel(org, job.id)).status is JobStatus.CANCELLED


async def test_asking_twice_with_one_key_gives_one_open_job(queue, org, kind):
    first = await queue.enqueue(NewJob(org_id=org, kind=kind, dedupe_key="k"))
    assert (await queue.enqueue(NewJob(org_id=org, kind=kind, dedupe_key="k"))).id == first.id
    job = await claim(queue, kind)
    assert job is not None
    await queue.succeed(job)
    assert (await queue.enqueue(NewJob(org_id=org, kind=kind, dedupe_key="k"))).id != first.id


async def test_progress_is_kept_with_the_job(queue, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    job = await claim(queue, kind)
    assert job is not None
    await queue.beat(job, LEASE, Progress(done=3, total=9, unit="rows"))
    await queue.beat(job, LEASE)
    kept = (await queue.store.get(org, job.id)).progress
    assert kept is not None
    assert (kept.done, kept.total, kept.unit) == (3, 9, "rows")


async def test_a_delayed_job_waits_for_its_time(queue, db, org, kind):
    made = await queue.enqueue(NewJob(org_id=org, kind=kind, delay_secs=3600))
    assert await claim(queue, kind) is None
    await due_now(db, made.id)
    assert await claim(queue, kind) is not None


async def test_the_reconciler_announces_jobs_whose_news_was_lost(queue, db, org, kind):
    async with db.tenant(org) as connection:  # inserted, never announced
        await queue.store.insert(connection, NewJob(org_id=org, kind=kind))
    assert await queue.reconcile() >= 1
    async with asyncio.timeout(50):
        await queue.wait([kind], 60)
    assert await claim(queue, kind) is not None


async def test_another_organisation_sees_no_job_of_ours(queue, db, org, kind):
    job = await queue.enqueue(NewJob(org_id=org, kind=kind))
    other = await add_org(db)
    with pytest.raises(NotFoundError):
        await queue.store.get(other, job.id)
    with pytest.raises(NotFoundError):
        await queue.cancel(other, job.id)
    assert await queue.store.list(other) == []
    assert [found.id for found in await queue.store.list(org, kind=kind)] == [job.id]


async def test_an_absent_job_is_not_found(queue, org):
    with pytest.raises(NotFoundError):
        await queue.store.get(org, new_id())


def test_retry_delays_double_spread_and_are_bounded():
    assert [retry_delay(n, 0.5) for n in (1, 2, 3, 4)] == [5, 10, 20, 40]
    assert retry_delay(1, 0.0) == pytest.approx(4)
    assert retry_delay(1, 1.0) == pytest.approx(6)
    assert retry_delay(30, 1.0) == 900


@pytest.mark.parametrize("name", ["nope", "no.such.module:Queue", "agentcy_ray.jobs.queue:Nope"])
def test_an_unknown_backend_is_a_configuration_fault(name, db, settings):
    with pytest.raises(ConfigError, match="JOB_QUEUE_BACKEND"):
        open_queue(settings.model_copy(update={"job_queue_backend": name}), db, None)
