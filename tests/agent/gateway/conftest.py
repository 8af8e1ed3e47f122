"""A world for each test of the gates, over one database for each module."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentcy_ray.agent.gates import Gates
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.vault import Vault
from tests.agent.gateway.world import (
    TOOLS,
    LabConnector,
    Recorder,
    StillSearch,
    World,
    make_process,
    people_of,
)


@pytest.fixture(scope="module")
async def db(make_database) -> AsyncIterator[Database]:
    url = await make_database()
    await migrate(url)
    database = await open_database(url, pool_max=10)
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def bell(redis_url: str) -> AsyncIterator[Bell]:
    store = await open_redis(redis_url, f"test-{secrets.token_hex(4)}")
    bell = Bell(store)
    yield bell
    await bell.aclose()
    await store.aclose()


@pytest.fixture
async def world(db: Database, bell: Bell, tmp_path: Any) -> AsyncIterator[World]:
    settings = Settings.load({}, agentcy_state_dir=tmp_path, approval_poll_secs=0.2)
    registry = Registry([LabConnector(), LabConnector("annex", TOOLS[:1])], settings)
    sources = SourceStore(db, Vault(bytes(32)), registry, bell)
    org = new_id()
    dispatcher, search, objects = Recorder(), StillSearch(), open_objects(settings)
    people = await people_of(db, org)
    process = make_process(db, bell, sources, objects, settings, dispatcher, search)
    world = World(
        db, bell, sources, objects, settings, org, people, dispatcher, search, process, []
    )  # fmt: skip
    world.source = await world.add_source("bench")
    yield world
    await process.close()


@pytest.fixture
async def second(world: World) -> AsyncIterator[Gates]:
    """Another process over the same stores, with the same dispatcher."""
    process = make_process(
        world.db, world.bell, world.sources, world.objects, world.settings, world.dispatcher,
        world.search,
    )  # fmt: skip
    yield process
    await process.close()
