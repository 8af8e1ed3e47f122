"""The Postgres server itself is killed while a backfill writes: its log brings back all of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.runtime.backfill_data import RayDataDriver
from agentcy_ray.runtime.cluster_config.parts import EmbeddingActors
from agentcy_ray.stores.embedded import ensure_embedded, status, stop_embedded
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import open_database
from tests.ingest.backfill.filling import Filling, slow_model
from tests.ingest.conftest import build_house
from tests.ingest.memory_source import MemorySource, chain
from tests.stores.embedded.probing import until

pytestmark = pytest.mark.chaos

SIZE, LANES, BLOCK = 600, 2, 16
"""Three stretches of a pipeline, which tells of one when all its blocks are written."""
POSTGRES = frozenset({"postgres"})
Kill = Callable[[], Awaitable[None]]


@pytest.fixture
async def alone(
    engine: ContextEngine, chunkers: Chunkers, settings: Settings, tmp_path: Path
) -> AsyncIterator[tuple[Filling, Settings]]:
    """A space to fill, and the settings of a Postgres that nobody else uses."""
    own = settings.model_copy(
        update={"agentcy_state_dir": tmp_path / "s", "context_engine": "basic"}
    )
    endpoints = await ensure_embedded(own, POSTGRES, until_exit_of=os.getpid())
    try:
        await migrate(endpoints.database_url)
        db = await open_database(endpoints.database_url, pool_max=8)
        mine = own.model_copy(update={"pipeline_batch_size": 100, "agentcy_features_demo": True})
        house = await build_house(db, engine, chunkers, mine, MemorySource(graph=chain(SIZE)))
        yield await Filling.of(house, slow_model()), own
        await db.close()
    finally:
        await stop_embedded(own)


@asynccontextmanager
async def killed_server(settings: Settings) -> AsyncIterator[Kill]:
    """What kills the server with all its processes; on leaving it is up again, on its old data."""
    before = status(settings)[0]

    async def kill() -> None:
        assert before.pid is not None
        postmaster = psutil.Process(before.pid)
        for process in [postmaster, *postmaster.children(recursive=True)]:
            process.kill()  # at once, as when the machine goes: none of them writes anything more

    yield kill

    def is_back() -> bool:
        now = status(settings)[0]
        return now.pid != before.pid and now.state == "healthy"

    await until(is_back, seconds=60)
    assert status(settings)[0].restarts == before.restarts + 1


@pytest.mark.requirement("EMB-06")
async def test_a_backfill_outlives_the_postgres_server(alone: tuple[Filling, Settings]) -> None:
    filling, settings = alone
    backfill = await filling.start(lanes=LANES, block_chunks=BLOCK)
    async with killed_server(settings) as kill:

        async def hook(texts: Sequence[str]) -> None:
            if len(filling.model.texts) >= SIZE // 2:
                filling.model.hook = None
                await kill()

        filling.model.hook = hook
        with pytest.raises(StoreUnavailableError):
            await filling.attempt(backfill, last=False)
    stopped = await filling.get(backfill)
    assert stopped.status == "running"
    assert 0 < stopped.chunks < SIZE
    ended = await filling.attempt(backfill)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    assert (ended.blocks, ended.chunks) == (ended.blocks_done, SIZE)
    assert len(filling.model.texts) - SIZE <= LANES * BLOCK, "a block of each lane at most"


@pytest.mark.slow
async def test_a_pipeline_outlives_the_postgres_server(
    alone: tuple[Filling, Settings], ray_cluster: None
) -> None:
    filling, settings = alone
    url = filling.house.db._pool._connect_args[0]
    drivers = {"ray-data": RayDataDriver(filling.house.settings, url, EmbeddingActors())}
    backfill = await filling.start("ray-data", block_chunks=BLOCK)
    async with killed_server(settings) as kill:
        killing: list[asyncio.Task[None]] = []

        def probe(name: str) -> None:
            if name == "written" and not killing:
                killing.append(asyncio.ensure_future(kill()))

        with pytest.raises(StoreUnavailableError):
            await filling.attempt(backfill, last=False, drivers=drivers, probe=probe)
    done = await filling.get(backfill)
    assert 0 < done.chunks < SIZE
    ended = await filling.attempt(backfill, drivers=drivers)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    assert (ended.blocks, ended.chunks) == (ended.blocks_done, SIZE)
