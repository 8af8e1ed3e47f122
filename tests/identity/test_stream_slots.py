"""Streams of a user: counted over all replicas, forgotten with the process that held them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import redis.asyncio as redis_py

from agentcy_ray.core.errors import RateLimitedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.identity.stream_slots import NOTED_SECS, StreamSlots
from agentcy_ray.stores.redis import RedisStore, open_redis
from tests.identity.conftest import MovingClock


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisStore]:
    store = await open_redis(redis_url, f"slots-{secrets.token_hex(4)}")
    yield store
    await store.aclose()


@pytest.fixture
def away() -> RedisStore:
    """A Redis that nobody reaches."""
    return RedisStore(redis_py.from_url("unix:///nowhere/redis.sock"), "away")


async def noted(redis: RedisStore, name: str, number: int) -> None:
    """Wait until Redis has so many notes of processes, bounded."""
    async with asyncio.timeout(60), redis.commands() as client:
        while await client.hlen(redis.key("sse", name)) != number:
            await asyncio.sleep(0)


async def test_replicas_count_streams_together_and_free_them_when_they_end(
    redis: RedisStore,
) -> None:
    clock, user = MovingClock(), new_id()
    first, second = StreamSlots(redis, clock, 5), StreamSlots(redis, clock, 5)
    ends = [await first.take(user) for _ in range(3)]
    for _ in range(2):
        await second.take(user)
    for slots in (first, second):
        with pytest.raises(RateLimitedError, match="5 streams") as refused:
            await slots.take(user)
        assert refused.value.code == "quota_exceeded"
    await first.take(new_id())  # another user has streams of their own
    for end in ends:
        end()
    await noted(redis, user.hex, 1)
    for _ in range(3):
        await second.take(user)
    with pytest.raises(RateLimitedError):
        await second.take(user)
    await first.close()
    await second.close()


async def test_streams_of_a_process_that_died_are_forgotten(redis: RedisStore) -> None:
    clock, user = MovingClock(), new_id()
    dead = StreamSlots(redis, clock, 2)
    await dead.take(user)
    await dead.take(user)
    await dead.close()
    living = StreamSlots(redis, clock, 2)
    with pytest.raises(RateLimitedError):
        await living.take(user)
    clock.ahead += timedelta(seconds=NOTED_SECS + 1)
    await living.take(user)
    await living.close()


async def test_while_redis_is_away_a_process_counts_its_own(away: RedisStore) -> None:
    slots, user = StreamSlots(away, MovingClock(), 2), new_id()
    end = await slots.take(user)
    await slots.take(user)
    with pytest.raises(RateLimitedError):
        await slots.take(user)
    end()
    await slots.take(user)
    await slots.close()
