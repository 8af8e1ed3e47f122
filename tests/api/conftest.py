"""One platform for all tests of the API, and the bundled embedder in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.endpoints import Endpoints
from tests.api.platform import Platform, open_platform, with_database
from tests.conftest import MakeDatabase


@pytest.fixture(scope="session")
async def embedder() -> AsyncIterator[LocalEmbedder]:
    loaded = await asyncio.to_thread(LocalEmbedder.load, Settings.load({}), threads=1)
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
async def platform(
    endpoints: Endpoints,
    make_database: MakeDatabase,
    embedder: LocalEmbedder,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    own = with_database(endpoints, await make_database())
    async with open_platform(own, tmp_path_factory.mktemp("platform"), embedder) as opened:
        yield opened
