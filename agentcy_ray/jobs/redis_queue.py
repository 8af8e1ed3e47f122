"""The queue over Redis: ids on lists and sorted sets, nothing that newer servers or modules need.

``q:<queue>:ready`` (list) and ``q:<queue>:delayed`` (sorted set by due time) hold ids of jobs that
wait, ``q:<queue>:leases`` (sorted set by end of lease) those that run, ``q:dead`` (list) the last
dead ones. An id wakes one worker, which then claims in Postgres whatever is next there. So a
flushed or absent Redis costs time only, and the order of the list decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.jobs.queue import RowQueue
from agentcy_ray.jobs.records import Job, JobStatus, QueueName, queue_of

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.postgres import Database
    from agentcy_ray.stores.redis import RedisStore

PUMP_SECS = 1.0
"""How late a delayed id may become ready."""
PUMP_BATCH = 100
AWAY_POLL_SECS = 1.0
DEAD_KEPT = 1000


class RedisQueue(RowQueue):
    """Carries ids on Redis."""

    def __init__(self, settings: Settings, db: Database, redis: RedisStore) -> None:
        super().__init__(settings, db, redis)
        self._redis = redis

    async def offer(self, job_id: UUID, queue: QueueName, delay_secs: float) -> None:
        """Put an id on the ready list, or on the delayed set; an id is on the list once."""
        async with self._redis.commands() as client, client.pipeline(transaction=True) as pipe:
            if delay_secs > 0:
                pipe.zadd(self._key(queue, "delayed"), {job_id.hex: time.time() + delay_secs})
            else:
                pipe.lrem(self._key(queue, "ready"), 0, job_id.hex)
                pipe.rpush(self._key(queue, "ready"), job_id.hex)
            await pipe.execute()

    async def wait(self, kinds: Sequence[str], timeout_secs: float) -> None:
        """Wait for an id on the lists of these kinds; poll slowly while Redis is away."""
        queues = sorted({queue_of(kind) for kind in kinds})
        try:
            async with self._redis.commands() as client:
                if await self._pump(client, queues):
                    return
                ready = [self._key(queue, "ready") for queue in queues]
                await client.blpop(ready, timeout=min(timeout_secs, PUMP_SECS))
        except StoreUnavailableError:
            await asyncio.sleep(min(timeout_secs, AWAY_POLL_SECS))

    async def hold(self, job: Job, lease_secs: float) -> None:
        """Note the end of a lease; when it lapses, a waiting worker is woken."""
        async with self._redis.commands() as client:
            until = time.time() + lease_secs
            await client.zadd(self._key(job.queue, "leases"), {job.id.hex: until})

    async def settle(self, job: Job) -> None:
        """Forget the lease of a job, and remember a dead one."""
        async with self._redis.commands() as client, client.pipeline(transaction=True) as pipe:
            pipe.zrem(self._key(job.queue, "leases"), job.id.hex)
            if job.status is JobStatus.DEAD:
                pipe.rpush(self._redis.key("q", "dead"), job.id.hex)
                pipe.ltrim(self._redis.key("q", "dead"), -DEAD_KEPT, -1)
            await pipe.execute()

    async def _pump(self, client: object, queues: Sequence[str]) -> bool:
        """Drop what is due from the delayed and lease sets; True when a worker should look."""
        now = time.time()
        due = False
        for queue in queues:
            for name in ("delayed", "leases"):
                key = self._key(queue, name)
                ids = await client.zrangebyscore(key, 0, now, start=0, num=PUMP_BATCH)  # type: ignore[attr-defined]
                if ids:
                    # Whoever removes an id looks at Postgres; one that lapsed is claimed there.
                    due |= bool(await client.zrem(key, *ids))  # type: ignore[attr-defined]
        return due

    def _key(self, queue: str, name: str) -> str:
        return self._redis.key("q", queue, name)
