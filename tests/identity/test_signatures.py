"""Signed requests: the right key, a fresh time, and no signature twice."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
import redis.asyncio as redis_py

from agentcy_ray.core.errors import StoreUnavailableError, UnauthenticatedError
from agentcy_ray.identity.signatures import WINDOW_SECS, Signatures, sign
from agentcy_ray.stores.redis import RedisStore, open_redis
from tests.identity.conftest import MovingClock

SECRET, BODY = b"whsec_" + b"k" * 32, b'{"event":"paid"}'


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisStore]:
    store = await open_redis(redis_url, f"signed-{secrets.token_hex(4)}")
    yield store
    await store.aclose()


@pytest.fixture
def away() -> RedisStore:
    """A Redis that nobody reaches."""
    return RedisStore(redis_py.from_url("unix:///nowhere/redis.sock"), "away")


def stamp(clock: MovingClock, secs: int = 0) -> str:
    return str(int(clock.now().timestamp()) + secs)


Wrong = Callable[[str], tuple[str, str | None]]
WRONG: list[Wrong] = [
    lambda now: (sign(b"another", BODY, now), now),
    lambda now: (sign(SECRET, BODY + b" ", now), now),
    lambda now: (sign(SECRET, BODY, now)[:-1], now),
    lambda now: (sign(SECRET, BODY, now).upper(), now),
    lambda now: (sign(SECRET, BODY, now).removeprefix("sha256="), now),
    lambda now: (sign(SECRET, BODY, now), None),  # the time taken off
    lambda now: (sign(SECRET, BODY), now),  # a time put on
    lambda now: (sign(SECRET, BODY, now), str(int(now) + 1)),
    lambda now: (sign(SECRET, BODY, f"-{now}"), f"-{now}"),
    lambda now: (sign(SECRET, BODY, f" {now}"), f" {now}"),
    lambda now: (sign(SECRET, BODY, "1e9"), "1e9"),
    lambda now: (sign(SECRET, BODY, "nan"), "nan"),
    lambda now: (sign(SECRET, BODY, "9" * 400), "9" * 400),
    lambda now: (sign(SECRET, BODY, "٣" * 10), "٣" * 10),
    lambda now: ("", now),
    lambda now: ("sha256=é", now),
    lambda now: (sign(b"", BODY, now), now),
]


@pytest.mark.attack
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_signature_that_is_not_the_bodys_is_refused(
    redis: RedisStore, wrong: Wrong
) -> None:
    clock = MovingClock()
    signature, timestamp = wrong(stamp(clock))
    with pytest.raises(UnauthenticatedError) as refused:
        Signatures(redis, clock).verify(SECRET, BODY, signature, timestamp)
    assert refused.value.code == "signature_invalid"


@pytest.mark.parametrize(
    ("secs", "good"), [(0, True), (-295, True), (295, True), (-302, False), (302, False)]
)
async def test_a_time_may_lie_five_minutes_from_ours(
    redis: RedisStore, secs: int, good: bool
) -> None:
    clock = MovingClock()
    signatures, timestamp = Signatures(redis, clock), stamp(clock, secs)
    if good:
        signatures.verify(SECRET, BODY, sign(SECRET, BODY, timestamp), timestamp)
    else:
        with pytest.raises(UnauthenticatedError, match="300 s away"):
            signatures.verify(SECRET, BODY, sign(SECRET, BODY, timestamp), timestamp)


@pytest.mark.attack
async def test_a_signature_works_once_over_all_replicas_until_its_time_is_past(
    redis: RedisStore,
) -> None:
    clock = MovingClock()
    first, second = Signatures(redis, clock), Signatures(redis, clock)
    timestamp = stamp(clock)
    signature = sign(SECRET, BODY, timestamp)
    async with first.once("token", signature, timestamp):
        pass
    for replica in (first, second):
        with pytest.raises(UnauthenticatedError, match="used already"):
            async with replica.once("token", signature, timestamp):
                pytest.fail("a used signature went through")
    async with second.once("another", signature, timestamp):
        pass
    async with redis.commands() as client:
        keys = [key async for key in client.scan_iter(redis.key("sig", "*"))]
        assert len(keys) == 2
        for key in keys:
            assert WINDOW_SECS < await client.ttl(key) <= 2 * WINDOW_SECS


async def test_a_request_that_failed_may_be_sent_again_as_it_is(redis: RedisStore) -> None:
    clock = MovingClock()
    signatures, timestamp = Signatures(redis, clock), stamp(clock)
    signature = sign(SECRET, BODY, timestamp)
    with pytest.raises(StoreUnavailableError):
        async with signatures.once("token", signature, timestamp):
            raise StoreUnavailableError("the database is away; try again")
    async with signatures.once("token", signature, timestamp):
        pass


@pytest.mark.attack
async def test_while_redis_is_away_a_process_remembers_by_itself(away: RedisStore) -> None:
    clock = MovingClock()
    signatures, timestamp = Signatures(away, clock), stamp(clock)
    signature = sign(SECRET, BODY, timestamp)
    async with signatures.once("token", signature, timestamp):
        pass
    with pytest.raises(UnauthenticatedError, match="used already"):
        async with signatures.once("token", signature, timestamp):
            pytest.fail("a used signature went through")
    clock.ahead += timedelta(seconds=2 * WINDOW_SECS + 1)
    async with signatures.once("token", signature, timestamp):
        pass
