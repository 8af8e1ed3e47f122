"""Limits of requests: over all replicas, with few round trips, and exact near their end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio as redis_py

from agentcy_ray.core.errors import RateLimitedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.identity.buckets import Ask, Buckets
from agentcy_ray.identity.limits import LEASE_MOST, LEASE_SHARE, RateLimits
from agentcy_ray.stores.redis import RedisStore, open_redis
from tests.identity.conftest import MovingClock, StoppedClock


class CountedBuckets(Buckets):
    """Counts its round trips."""

    trips = 0

    async def take(self, asks: Any) -> Any:
        self.trips += 1
        return await super().take(asks)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisStore]:
    store = await open_redis(redis_url, f"limits-{secrets.token_hex(4)}")
    yield store
    await store.aclose()


@pytest.fixture
def away() -> RedisStore:
    """A Redis that nobody reaches."""
    return RedisStore(redis_py.from_url("unix:///nowhere/redis.sock"), "away")


def person(**more: Any) -> Principal:
    return Principal(user_id=new_id(), org_id=new_id(), role=Role.MEMBER, **more)


def replica(
    redis: RedisStore, clock: MovingClock, user: int = 6000, org: int = 60_000
) -> tuple[RateLimits, CountedBuckets]:
    buckets = CountedBuckets(redis, clock)
    return RateLimits(buckets, clock, user_rpm=user, org_rpm=org), buckets


async def ask(limits: RateLimits, who: Principal) -> bool:
    """As the application does; whether the request may go on."""
    try:
        if not limits.admit(who):
            await limits.check(who)
    except RateLimitedError:
        return False
    return True


async def passed(limits: RateLimits, who: Principal, most: int = 10_000) -> int:
    """How many requests go through before one is refused."""
    for number in range(most):
        if not await ask(limits, who):
            return number
    return most


@pytest.mark.requirement("API-06")
async def test_replicas_together_let_no_more_through_than_the_limit(redis: RedisStore) -> None:
    clock, who = StoppedClock(), person()
    first, second = replica(redis, clock, user=600)[0], replica(redis, clock, user=600)[0]
    both = [await ask(limits, who) for _ in range(400) for limits in (first, second)]
    # What lies in the other's hand is part of the limit too: nothing is spent twice.
    assert sum(both) == 600
    clock.ahead += timedelta(seconds=30)
    assert await passed(first, who) + await passed(second, who) == 300


@pytest.mark.requirement("API-06")
async def test_what_was_in_hand_passes_a_limit_by_no_more_than_a_lease_per_replica(
    redis: RedisStore,
) -> None:
    clock, who, limit = StoppedClock(), person(), 6000
    replicas = [replica(redis, clock, user=limit)[0] for _ in range(3)]
    for _ in range(500):
        for limits in replicas:
            assert await ask(limits, who)
    # Full again, with tokens still in hand: the most that one window can let through.
    clock.ahead += timedelta(minutes=5)
    window = sum([await passed(limits, who) for limits in replicas])
    assert limit <= window <= limit + 3 * min(LEASE_MOST, limit // LEASE_SHARE)


async def test_far_from_the_limit_redis_is_asked_for_few_requests_of_many(
    redis: RedisStore,
) -> None:
    clock, who = StoppedClock(), person()
    limits, buckets = replica(redis, clock, user=1_000_000, org=10_000_000)
    assert await passed(limits, who, 5000) == 5000
    assert buckets.trips < 40
    # One who comes now and then takes nothing in advance.
    rare = person()
    for _ in range(5):
        clock.ahead += timedelta(seconds=10)
        assert await ask(limits, rare)
    async with redis.commands() as client:
        state = await client.hgetall(redis.key("rl", "user", rare.user_id.hex))
    assert float(state["tokens"]) == pytest.approx(1_000_000 - 1)


async def test_a_refusal_says_whose_limit_it_is_and_when_the_next_token_comes(
    redis: RedisStore,
) -> None:
    clock, limits = StoppedClock(), None
    limits, _ = replica(redis, clock, user=12, org=20)
    who = person()
    colleague = who.model_copy(update={"user_id": new_id()})
    assert await passed(limits, who) == 12
    with pytest.raises(RateLimitedError, match="of this user; try again in 5 s") as refused:
        await limits.check(who)
    assert refused.value.details == {
        "retry_after_secs": 5, "limit": 12, "remaining": 0, "reset_secs": 60,
    }  # fmt: skip
    # The user's refused requests took nothing from the organisation's other people.
    assert await passed(limits, colleague) == 8
    with pytest.raises(RateLimitedError, match="of this organisation"):
        await limits.check(colleague)
    clock.ahead += timedelta(seconds=5)
    assert await ask(limits, who)


async def test_a_key_with_a_limit_of_its_own_has_that_beside_its_owners(redis: RedisStore) -> None:
    limits, _ = replica(redis, StoppedClock(), user=10)
    owner = person()
    key = owner.model_copy(update={"api_key_id": new_id(), "rpm": 4, "auth": "api_key"})
    assert await passed(limits, key) == 4
    with pytest.raises(RateLimitedError, match="of this API key"):
        await limits.check(key)
    assert await passed(limits, owner) == 6


async def test_many_at_once_are_asked_for_in_few_round_trips(redis: RedisStore) -> None:
    limits, buckets = replica(redis, StoppedClock(), user=50)
    people = [person() for _ in range(150)]
    answers = await asyncio.gather(*(ask(limits, who) for who in people for _ in range(2)))
    assert all(answers)
    assert buckets.trips < 30
    crowd = await asyncio.gather(*(ask(limits, people[0]) for _ in range(300)))
    assert sum(crowd) == 48


async def test_while_redis_is_away_each_process_counts_and_does_not_ask_each_time(
    away: RedisStore,
) -> None:
    clock, who = StoppedClock(), person()
    limits, _ = replica(away, clock, user=5)
    assert await passed(limits, who) == 5
    clock.ahead += timedelta(seconds=24)
    assert await passed(limits, who) == 2


async def test_clocks_that_differ_give_no_token_twice(redis: RedisStore) -> None:
    slow, fast = StoppedClock(), StoppedClock()
    slow.ahead, fast.ahead = timedelta(), timedelta(seconds=30)
    ask_one = Ask("test", "k", rate=1, burst=60, need=30)
    given = 0
    for clock in (slow, fast, slow, fast, slow, fast):
        [grant] = await Buckets(redis, clock).take([ask_one])
        given += grant.given
    assert given == 60 + 30
