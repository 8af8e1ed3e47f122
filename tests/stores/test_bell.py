"""Wake-ups between processes, with and without Redis."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.stores.bell import PAYLOADS_KEPT, Bell
from agentcy_ray.stores.embedded import ensure_embedded, status, stop_embedded
from agentcy_ray.stores.redis import RedisStore, open_redis
from tests.stores.embedded.probing import settings_in, until


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    store = await open_redis(redis_url, f"test-{secrets.token_hex(4)}")
    yield store
    await store.aclose()


@pytest.fixture
async def bell(store: RedisStore) -> AsyncIterator[Bell]:
    bell = Bell(store)
    yield bell
    await bell.aclose()


async def _subscribers(store: RedisStore, channels: Sequence[str]) -> tuple[set[int], int]:
    """How many listen to each of the channels, and how many listen to as many as they are."""
    async with store.commands() as client:
        numbers = await client.pubsub_numsub(*map(store.key, channels))
        clients = await client.client_list(_type="pubsub")
    return {count for _, count in numbers}, sum(int(c["sub"]) >= len(channels) for c in clients)


async def test_a_ring_reaches_a_listener_of_another_connection(
    bell: Bell, redis_url: str, store: RedisStore
) -> None:
    other = await open_redis(redis_url, store.key())
    async with bell.listen("ch:run:1") as ear:
        assert await Bell(other).ring("ch:run:1", {"seq": 7}) is True
        assert await ear.next(30) == {"seq": 7}
    await other.aclose()


async def test_a_listener_hears_none_when_its_time_is_up(bell: Bell) -> None:
    async with bell.listen("ch:quiet") as ear:
        assert await ear.next(0.01) is None


async def test_a_thousand_listeners_share_one_connection(bell: Bell, store: RedisStore) -> None:
    ready = asyncio.Semaphore(0)

    async def listen(number: int) -> dict[str, int] | None:
        async with bell.listen(f"ch:run:{number % 250}") as ear:
            ready.release()
            return await ear.next(30)

    tasks = [asyncio.create_task(listen(number)) for number in range(1000)]
    for _ in tasks:
        await ready.acquire()
    assert await _subscribers(store, [f"ch:run:{number}" for number in range(250)]) == ({1}, 1)
    for number in range(250):
        await bell.ring(f"ch:run:{number}", {"run": number})
    heard = await asyncio.gather(*tasks)
    assert heard == [{"run": number % 250} for number in range(1000)]


async def test_a_channel_without_listeners_is_unsubscribed(bell: Bell, store: RedisStore) -> None:
    async with bell.listen("ch:kept"):
        async with bell.listen("ch:left"):
            pass

        async def left() -> bool:
            return await store.publish([("ch:left", {})]) == [0]

        await until(left)
        assert await store.publish([("ch:kept", {})]) == [1]


async def test_listening_again_at_once_misses_nothing(bell: Bell) -> None:
    for number in range(50):
        async with bell.listen("ch:again") as ear:
            await bell.ring("ch:again", {"number": number})
            assert await ear.next(30) == {"number": number}


async def test_a_slow_listener_is_sent_to_postgres_instead_of_filling_memory(bell: Bell) -> None:
    async with bell.listen("ch:busy", "ch:end") as ear, bell.listen("ch:end") as end:
        for number in range(PAYLOADS_KEPT + 1):
            await bell.ring("ch:busy", {"number": number})
        await bell.ring("ch:end", {})
        assert await end.next(30) == {}
        assert await ear.next(1) is None
        assert await ear.next(1) == {}


async def test_what_is_no_json_object_only_wakes(bell: Bell, store: RedisStore) -> None:
    async with bell.listen("ch:odd") as ear:
        async with store.commands() as client:
            await client.publish(store.key("ch:odd"), "not json")
        assert await ear.next(30) is None
        await bell.ring("ch:odd", {"after": True})
        assert await ear.next(30) == {"after": True}


@pytest.mark.chaos
async def test_a_listener_survives_a_killed_redis(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "state")
    try:
        url = (await ensure_embedded(settings, frozenset({"redis"}))).redis_url
        store = await open_redis(url, "test")
        bell = Bell(store)
        async with bell.listen("ch:run") as ear:
            (redis,) = status(settings)
            assert redis.pid
            os.kill(redis.pid, signal.SIGKILL)
            assert await ear.next(30) is None  # lost
            assert await ear.next(30) is None  # back, and subscribed again
            await until(lambda: bell.ring("ch:run", {"seq": 1}))
            assert await ear.next(30) == {"seq": 1}
        await bell.aclose()
        await store.aclose()
    finally:
        await stop_embedded(settings)


async def test_without_redis_commands_fail_and_the_bell_stays_silent(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "state")
    url = (await ensure_embedded(settings, frozenset({"redis"}))).redis_url
    store = await open_redis(url, "test")
    bell = Bell(store)
    await stop_embedded(settings)
    with pytest.raises(StoreUnavailableError, match="REDIS_URL"):
        await store.publish([("ch:run", {})])
    assert await bell.ring("ch:run", {}) is False
    async with bell.listen("ch:run") as ear:
        await ear.next(0.05)
        assert await ear.next(0.05) is None
    await bell.aclose()
    await store.aclose()


async def test_opening_says_what_is_wrong_with_the_url(redis_url: str) -> None:
    with pytest.raises(ConfigError, match="malformed"):
        await open_redis("localhost:6379", "test")
    with pytest.raises(ConfigError, match="credentials"):
        await open_redis(redis_url.replace("redis://:", "redis://:not"), "test")
    with pytest.raises(StoreUnavailableError):
        await open_redis("redis://127.0.0.1:1/0", "test")


@pytest.mark.requirement("JOB-03")
async def test_the_bell_sends_no_stream_and_no_module_command(
    bell: Bell, store: RedisStore
) -> None:
    async with bell.listen("ch:x") as ear:
        await bell.ring("ch:x", {})
        await ear.next(5)
    async with store.commands() as client:
        used = await client.info("commandstats")
    assert used
    assert not [
        name for name in used if name.startswith(("cmdstat_x", "cmdstat_json", "cmdstat_ft"))
    ]
