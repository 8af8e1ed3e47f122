"""What Redis carries, and that losing it loses nothing."""

from __future__ import annotations

import asyncio
import re
import secrets

import pytest

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.jobs.opening import open_queue
from agentcy_ray.jobs.queue import NewJob
from agentcy_ray.jobs.redis_queue import RedisQueue
from agentcy_ray.stores.redis import open_redis

STREAM_COMMANDS = re.compile(r"^x(add|read|readgroup|group|ack|claim|autoclaim|len|range|trim|del)")


@pytest.fixture
def kind() -> str:
    return f"kind-{secrets.token_hex(6)}"


@pytest.fixture
def queue(db, redis, settings: Settings) -> RedisQueue:
    return RedisQueue(settings, db, redis)


@pytest.mark.requirement("JOB-01")
async def test_redis_is_the_default_and_carries_the_ids_of_syncs_and_tasks(
    db, redis, settings, org
):
    queue = open_queue(settings, db, redis)
    assert isinstance(queue, RedisQueue)
    sync = await queue.enqueue(NewJob(org_id=org, kind="source_sync"))
    task = await queue.enqueue(NewJob(org_id=org, kind="task_run"))
    later = await queue.enqueue(NewJob(org_id=org, kind="task_run", delay_secs=60))
    async with redis.commands() as client:
        assert await client.lrange(redis.key("q:sync:ready"), 0, -1) == [sync.id.hex]
        assert await client.lrange(redis.key("q:tasks:ready"), 0, -1) == [task.id.hex]
        assert await client.zrange(redis.key("q:tasks:delayed"), 0, -1) == [later.id.hex]
    for job in (sync, task, later):
        await queue.cancel(org, job.id)


async def test_a_running_job_has_a_lease_entry_until_it_ends(queue, redis, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind, max_attempts=1))
    job = await queue.claim("w", [kind], 30)
    assert job is not None
    async with redis.commands() as client:
        assert await client.zrange(redis.key("q:tasks:leases"), 0, -1) == [job.id.hex]
        await queue.fail(job, OSError("broken"))
        assert await client.zrange(redis.key("q:tasks:leases"), 0, -1) == []
        assert await client.lrange(redis.key("q:dead"), 0, -1) == [job.id.hex]


async def test_a_flushed_redis_loses_no_job(queue, redis, org, kind):
    made = await queue.enqueue(NewJob(org_id=org, kind=kind))
    async with redis.commands() as client:
        await client.delete(*await client.keys(redis.key("*")))
    await queue.reconcile()
    async with asyncio.timeout(60):
        await queue.wait([kind], 120)
    job = await queue.claim("w", [kind], 30)
    assert job is not None
    assert job.id == made.id


async def test_reconciling_often_keeps_one_entry_a_job(queue, redis, org, kind):
    made = await queue.enqueue(NewJob(org_id=org, kind=kind))
    for _ in range(3):
        await queue.reconcile()
    async with redis.commands() as client:
        ids = await client.lrange(redis.key("q:tasks:ready"), 0, -1)
    assert ids.count(made.id.hex) == 1


async def test_jobs_are_taken_and_ended_while_redis_is_away(db, redis_url, settings, org, kind):
    store = await open_redis(redis_url, "away")
    queue = RedisQueue(settings, db, store)

    class Away:
        def __getattr__(self, name: str):
            raise OSError("refused")

    store._client, client = Away(), store._client
    try:
        with pytest.raises(StoreUnavailableError):
            await queue.offer(org, "tasks", 0)
        made = await queue.enqueue(NewJob(org_id=org, kind=kind))
        job = await queue.claim("w", [kind], 30)
        assert job is not None
        assert job.id == made.id
        assert (await queue.succeed(job)).status == "succeeded"
    finally:
        store._client = client
        await store.aclose()


@pytest.mark.requirement("JOB-03")
async def test_only_plain_commands_are_sent(queue, redis, org, kind):
    await queue.enqueue(NewJob(org_id=org, kind=kind))
    await queue.wait([kind], 0.1)
    job = await queue.claim("w", [kind], 30)
    assert job is not None
    await queue.beat(job, 30)
    await queue.release(job)
    async with redis.commands() as client:
        sent = [name.removeprefix("cmdstat_") for name in await client.info("commandstats")]
    assert "rpush" in sent
    assert [name for name in sent if STREAM_COMMANDS.match(name) or "." in name] == []
