"""A house that changes its model, and the bell that tells of it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.redis import open_redis
from tests.ingest.conftest import MakeHouse
from tests.ingest.memory_source import MemorySource
from tests.ingest.swap.swapping import NEW, Swapping, library

MakeSwapping = Callable[..., Awaitable[Swapping]]


@pytest.fixture
async def bell(redis_url: str) -> AsyncIterator[Bell]:
    redis = await open_redis(redis_url, f"swap-{secrets.token_hex(4)}")
    bell = Bell(redis)
    yield bell
    await bell.aclose()
    await redis.aclose()


@pytest.fixture
async def make_swapping(make_house: MakeHouse, bell: Bell) -> AsyncIterator[MakeSwapping]:
    made: list[Swapping] = []

    async def make(size: int = 60, script: str = NEW, **settings: object) -> Swapping:
        house = await make_house(MemorySource(graph=library(size)), **settings)
        made.append(await Swapping.of(house, bell, script))
        return made[-1]

    yield make
    for swapping in made:
        await swapping.search.close()
