"""Writer actors: batches of other processes, streamed into kyma once, whatever dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray

from agentcy_ray.core.errors import EngineRefusedError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime import names
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.cluster_config import ClusterConfig
from agentcy_ray.runtime.kyma_writers import KymaWriterActor, KymaWriterPool
from agentcy_ray.stores.endpoints import Endpoints
from tests.context.kyma.stub import StubKyma, failure, serving

WRITERS = ["kyma-writer-0", "kyma-writer-1"]


@pytest.fixture(scope="module")
async def stub() -> AsyncIterator[StubKyma]:
    async with serving() as served:
        yield served.stub


@pytest.fixture(scope="module")
def writers(
    ray_cluster: None, stub: StubKyma, settings: Settings, endpoints: Endpoints
) -> Iterator[list[Any]]:
    environment = {
        "AGENTCY_STATE_DIR": str(settings.state_dir), "CONTEXT_ENGINE": "advanced",
        "KYMA_BASE_URL": stub.url, "KYMA_TOKEN": stub.token, "KYMA_FLIGHT_URL": "off",
        "KYMA_SLICE_BYTES": "4096",
    }  # fmt: skip
    actors = [
        ray.remote(KymaWriterActor)
        .options(
            name=name, namespace=NAMESPACE, num_cpus=0, max_restarts=-1, max_concurrency=8,
            runtime_env={"env_vars": environment},
        )
        .remote(name)
        for name in WRITERS
    ]  # fmt: skip
    yield actors
    for actor in actors:
        ray.kill(actor)


def batch(start: int, rows: int = 400) -> pa.RecordBatch:
    return pa.record_batch({"id": [f"n{i}" for i in range(start, start + rows)]})


def stored(stub: StubKyma) -> list[str]:
    return sorted(row["id"] for row in stub.rows())


@pytest.mark.requirement("KYMA-02")
async def test_batches_go_to_the_writers_and_every_row_arrives_once(
    writers: list[Any], stub: StubKyma
) -> None:
    pool = KymaWriterPool(WRITERS)
    whole = batch(0, 2400)
    parts = [whole.slice(start, 400) for start in range(0, 2400, 400)]

    written = await asyncio.gather(
        *(pool.ingest("kyma", "context_nodes", part, key_scope="p") for part in parts)
    )

    assert [part.rows for part in written] == [400] * 6
    assert stored(stub) == sorted(whole.column("id").to_pylist())
    assert all(len(seen.body) <= 4096 for seen in stub.ingests())


async def test_a_writer_that_dies_over_a_batch_costs_no_row_and_doubles_none(
    writers: list[Any], stub: StubKyma
) -> None:
    stub.stored.clear()
    stub.seen.clear()
    stub.hold = asyncio.Event()
    stub.arrived.clear()
    pool = KymaWriterPool(WRITERS, first_wait_secs=0.01)
    writing = asyncio.create_task(pool.ingest("kyma", "context_nodes", batch(5000), key_scope="p"))
    await asyncio.wait_for(stub.arrived.wait(), 60)
    ray.kill(writers[0], no_restart=False)  # the first of idle ones has it
    stub.hold.set()

    written = await asyncio.wait_for(writing, 60)
    stub.hold = None

    assert written.rows + written.replayed == 400
    assert stored(stub) == sorted(batch(5000).column("id").to_pylist())


async def test_an_error_of_kyma_reaches_the_caller_as_it_is(
    writers: list[Any], stub: StubKyma
) -> None:
    stub.then("/v1/ingest", failure(403, "forbidden"))

    with pytest.raises(EngineRefusedError, match="write role") as caught:
        await KymaWriterPool(WRITERS).ingest("kyma", "t", batch(0, 1), key_scope="p")
    assert caught.value.details["status"] == 403


async def test_writers_that_are_all_away_are_a_transient_error(ray_cluster: None) -> None:
    pool = KymaWriterPool(["kyma-writer-nobody"], first_wait_secs=0.001)

    with pytest.raises(StoreUnavailableError, match="restarts it"):
        await pool.ingest("kyma", "t", batch(0, 1), key_scope="p")


def test_the_cluster_config_says_how_many_there_are() -> None:
    config = ClusterConfig.model_validate({"kyma": {"writers": 2, "num_cpus": 1}})

    assert names.kyma_writers(config) == WRITERS
    assert set(WRITERS) <= set(names.shared_actors(config))
    assert names.kyma_writers(ClusterConfig()) == []
