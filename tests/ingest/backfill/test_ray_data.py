"""The driver over Ray Data: the same fences, the same end, whatever dies."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
import ray
from pydantic import SecretStr

from agentcy_ray.ingest.backfill.finish import IndexFinisher
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.runtime.backfill_data import RayDataDriver
from agentcy_ray.runtime.cluster_config.parts import EmbeddingActors
from tests.conformance.pinecone_double import KEY, PineconeDouble
from tests.ingest.backfill.conftest import MakeFilling
from tests.ingest.backfill.filling import Filling
from tests.ingest.backfill.test_killed import killed_at
from tests.ingest.conftest import MakeHouse
from tests.ingest.memory_source import MemorySource, chain

pytestmark = pytest.mark.chaos
BLOCK = 16


def driver(filling: Filling) -> RayDataDriver:
    settings = filling.house.settings.model_copy(update={"agentcy_features_demo": True})
    filling.house.settings = settings
    url = filling.house.db._pool._connect_args[0]
    return RayDataDriver(settings, url, EmbeddingActors())


def kill_an_embedding_actor() -> None:
    for process in psutil.Process().children(recursive=True):
        if "FillStage" in "".join(process.cmdline()):
            process.kill()
            return
    raise AssertionError("no actor embeds")


@pytest.mark.requirement("EMB-01")
async def test_a_pipeline_outlives_the_actors_that_embed(
    make_filling: MakeFilling, ray_cluster: None
):
    filling = await make_filling(300)
    drivers = {"ray-data": driver(filling)}
    killed: list[str] = []

    def probe(name: str) -> None:
        if name == "written" and not killed:
            killed.append(name)
            kill_an_embedding_actor()

    backfill = await filling.start("ray-data", block_chunks=BLOCK)
    ended = await filling.attempt(backfill, drivers=drivers, probe=probe)
    assert (ended.status, await filling.status(), len(killed)) == ("done", "ready", 1)
    await filling.assert_complete()
    assert (ended.blocks, ended.chunks) == (ended.blocks_done, 300)


@pytest.mark.slow
async def test_a_killed_pipeline_is_completed_by_the_next_one(
    make_filling: MakeFilling, ray_cluster: None, tmp_path: Path
):
    filling = await make_filling(300)
    drivers = {"ray-data": driver(filling)}
    backfill = await filling.start("ray-data", block_chunks=BLOCK)
    address = ray.get_runtime_context().gcs_address
    status, _ = await killed_at(filling, backfill, tmp_path, "written", 3, ray=address)
    assert status == -signal.SIGKILL
    done = (await filling.get(backfill)).blocks_done
    assert done >= 3
    ended = await filling.attempt(backfill, drivers=drivers)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    assert ended.chunks == 300


async def test_a_pipeline_writes_vectors_into_another_store_once(
    make_house: MakeHouse, ray_cluster: None
):
    index = PineconeDouble(16)
    there = {"pinecone_api_key": SecretStr(KEY), "pinecone_host": index.host}
    filling = await Filling.of(
        await make_house(MemorySource(graph=chain(100)), **there), backend="pinecone"
    )
    drivers = {"ray-data": driver(filling)}
    house = filling.house
    backends = VectorBackends(house.settings)
    finisher = IndexFinisher(house.db, house.stores.spaces, house.settings, backends)
    killed: list[str] = []

    def probe(name: str) -> None:
        if name == "written" and not killed:
            killed.append(name)
            kill_an_embedding_actor()

    backfill = await filling.start("ray-data", block_chunks=BLOCK)
    ended = await filling.attempt(
        backfill, drivers=drivers, probe=probe, finisher=finisher, backends=backends
    )
    await backends.close()
    assert (ended.status, ended.chunks, len(killed)) == ("done", 100, 1)
    await filling.assert_complete()
    async with house.db.tenant(house.org_id) as connection:
        rows = await connection.fetch(f"SELECT chunk_key FROM {filling.space.table_name}")
    assert [set(space) for space in index.spaces.values()] == [{row[0] for row in rows}]
    await index.close()
