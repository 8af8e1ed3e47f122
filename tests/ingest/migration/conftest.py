"""A house whose organisation may move: both engines, on real servers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from secrets import token_hex
from typing import Any

import pytest

from agentcy_ray.context.migration.opening import open_router
from agentcy_ray.context.migration.router import EngineRouter
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.postgres import Database
from tests.ingest.conftest import MakeHouse
from tests.ingest.harness import House
from tests.ingest.memory_source import MemorySource
from tests.ingest.migration.moving import Moving

MakeMoving = Callable[..., Awaitable[Moving]]


@pytest.fixture(scope="session")
async def both_endpoints(settings: Settings, endpoints: Endpoints, database_url: str) -> Endpoints:
    """The session's servers with the embedded Advanced engine beside them."""
    kyma = await ensure_embedded(settings, frozenset({"kyma"}), until_exit_of=os.getpid())
    return replace(
        endpoints, database_url=database_url, kyma_url=kyma.kyma_url,
        kyma_flight_url=kyma.kyma_flight_url, kyma_token=kyma.kyma_token,
    )  # fmt: skip


@pytest.fixture(scope="session")
def kyma_database() -> str:
    """The name of this session's part of the engine, which others use too."""
    return f"moving_{token_hex(4)}"


@pytest.fixture
async def router(
    settings: Settings, both_endpoints: Endpoints, db: Database, kyma_database: str
) -> AsyncIterator[EngineRouter]:
    own = settings.model_copy(update={"kyma_database": kyma_database})
    opened = open_router(own, both_endpoints, db)
    await opened.prepare()
    yield opened
    await opened.close()


@pytest.fixture
def make_moving(
    make_house: MakeHouse, router: EngineRouter, both_endpoints: Endpoints, kyma_database: str
) -> MakeMoving:
    async def make(source: MemorySource | None = None, **overrides: Any) -> Moving:
        house: House = await make_house(source, kyma_database=kyma_database, **overrides)
        house.stores = replace(house.stores, engine=router)
        return Moving(house, router, both_endpoints)

    return make
