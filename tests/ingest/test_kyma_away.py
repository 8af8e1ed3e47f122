"""A publish into the Advanced engine while its server dies."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.context.factory import open_engine
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded, status
from tests.ingest.conftest import MakeHouse
from tests.ingest.memory_source import MemorySource, chain
from tests.stores.embedded.probing import until


@pytest.fixture
async def advanced(settings: Settings, database_url: str) -> AsyncIterator[ContextEngine]:
    """The Advanced engine, whatever engine the other tests use."""
    mine = settings.model_copy(update={"context_engine": "advanced"})
    kyma = await ensure_embedded(mine, frozenset({"kyma"}), until_exit_of=os.getpid())
    engine = open_engine(mine, replace(kyma, database_url=database_url))
    yield engine
    await engine.close()


async def test_a_publish_goes_on_when_the_engine_comes_back(
    make_house: MakeHouse, advanced: ContextEngine, settings: Settings
) -> None:
    house = await make_house(MemorySource(graph=chain(300)))
    house.stores = replace(house.stores, engine=advanced)
    killed: list[str] = []

    def probe(stage: str) -> None:
        if stage in ("nodes_batch", "edges_batch") and stage not in killed:
            killed.append(stage)
            [server] = [each for each in status(settings) if each.name == "kyma"]
            if server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)

    run = await house.sync(probe=probe)

    assert killed == ["nodes_batch", "edges_batch"]
    assert (run.status, run.error) == ("synced", None)
    # Nothing may be left to write after the second death: then nobody has waited for the server.
    await until(lambda: answers(advanced))
    await house.assert_holds(house.source.graph)


async def answers(engine: ContextEngine) -> bool:
    try:
        await engine.ping()
    except StoreUnavailableError:
        return False
    return True
