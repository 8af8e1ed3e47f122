"""Throttling: counted in Redis over replicas, and by each process while Redis is away."""

from __future__ import annotations

from datetime import timedelta

from agentcy_ray.core.errors import RateLimitedError
from agentcy_ray.identity.throttle import Throttle
from agentcy_ray.stores.redis import RedisStore
from tests.identity.conftest import StoppedClock


async def taken(throttle: Throttle, key: str) -> int:
    """How many go through before one is refused."""
    for number in range(100):
        try:
            await throttle.check(key)
        except RateLimitedError as error:
            return number if 1 <= error.details["retry_after_secs"] <= 60 else -1
    return 100


async def test_replicas_count_together_and_time_gives_tokens_back(redis: RedisStore) -> None:
    clock = StoppedClock()
    clock.ahead = timedelta(seconds=-clock.now().timestamp() % 60)
    first, second = Throttle(redis, "login", 6, clock), Throttle(redis, "login", 6, clock)
    for _ in range(3):
        await first.check("k")
    assert await taken(second, "k") == 3
    assert await taken(first, "other") == 6
    clock.ahead += timedelta(seconds=21)
    assert await taken(first, "k") == 2
    clock.ahead += timedelta(hours=1)
    assert await taken(second, "k") == 6


async def test_while_redis_is_away_each_process_counts(redis: RedisStore) -> None:
    clock = StoppedClock()
    throttle = Throttle(redis, "login", 4, clock)
    await redis.aclose()
    assert await taken(throttle, "k") == 4
    clock.ahead += timedelta(seconds=31)
    assert await taken(throttle, "k") == 2
