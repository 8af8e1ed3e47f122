"""Metrics of all processes, added up by whoever is asked."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from agentcy_ray.core.metrics import Metrics
from agentcy_ray.stores.redis import RedisStore, open_redis
from agentcy_ray.stores.shared_metrics import SharedMetrics


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisStore]:
    store = await open_redis(redis_url, f"test-{secrets.token_hex(4)}")
    yield store
    await store.aclose()


class Process:
    """One process with its metrics."""

    def __init__(self, redis: RedisStore) -> None:
        self.redis = redis
        self.metrics = Metrics()
        self.shared = SharedMetrics(redis, self.metrics)

    def work(self, calls: int) -> None:
        self.metrics.tool_calls.of("git", "read", "allow").inc(calls)
        for _ in range(calls):
            self.metrics.tool_seconds.of("git", "total").observe(0.002)
        self.metrics.db_pool_in_use.set(calls)

    async def seen(self) -> tuple[float, float, float]:
        """Calls, the sum of their times in ms, and connections, over all processes."""
        lines = self.metrics.text(await self.shared.total()).splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return (
            float(
                values['agentcy_tool_calls_total{connector="git",effect="read",decision="allow"}']
            ),
            round(
                1000 * float(values['agentcy_tool_call_seconds_sum{connector="git",stage="total"}'])
            ),
            float(values.get("agentcy_db_pool_in_use", 0)),
        )

    async def go_unheard(self, secs: int) -> None:
        """As if nothing had been heard of it for so long."""
        async with self.redis.commands() as client:
            await client.zincrby(self.redis.key("metrics", "heard"), -secs, self.shared._process)


async def test_whoever_is_asked_gives_the_figures_of_all(redis: RedisStore) -> None:
    first, second = Process(redis), Process(redis)
    first.work(3)
    second.work(4)
    await second.shared.hand_in()
    assert await first.seen() == (7, 14, 7)
    first.work(1)  # its own figures are those of now
    assert await first.seen() == (8, 16, 5)


async def test_counters_do_not_fall_when_a_process_goes_and_its_gauges_do(
    redis: RedisStore,
) -> None:
    first, second = Process(redis), Process(redis)
    first.work(3)
    second.work(4)
    await second.shared.hand_in()
    await second.go_unheard(20)
    assert await first.seen() == (7, 14, 3)
    await second.go_unheard(100)
    assert await first.seen() == (7, 14, 3)
    assert await first.seen() == (7, 14, 3)
    third = Process(redis)
    third.work(1)
    assert await third.seen() == (5, 10, 1)


async def test_a_process_that_was_thought_gone_is_not_counted_twice(redis: RedisStore) -> None:
    first, second = Process(redis), Process(redis)
    first.work(3)
    second.work(4)
    await second.shared.hand_in()
    await second.go_unheard(100)
    assert await first.seen() == (7, 14, 3)
    second.work(2)
    await second.shared.hand_in()
    assert await first.seen() == (9, 18, 5)
    await second.go_unheard(100)
    assert await first.seen() == (9, 18, 3)
    await second.shared.hand_in()
    second.work(1)
    await second.shared.hand_in()
    assert await first.seen() == (10, 20, 4)


async def test_without_redis_a_process_gives_its_own(redis_url: str) -> None:
    store = await open_redis(redis_url, "test-away")
    alone = Process(store)
    alone.work(2)
    store._client.connection_pool.connection_kwargs["path"] = "/nowhere"
    await store._client.connection_pool.disconnect()
    assert await alone.seen() == (2, 4, 2)
    await store.aclose()
