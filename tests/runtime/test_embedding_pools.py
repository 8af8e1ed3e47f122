"""Pools of embedding actors: one for each model, spread, counted, and there again after a death."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from agentcy_ray.core.errors import EmbedderRefusedError, InvalidError
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import matrix_of
from agentcy_ray.retrieval.embedders import load_embedder
from agentcy_ray.runtime import foreman, names
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.cluster_config import ClusterConfig
from agentcy_ray.runtime.embedding_pools import EmbeddingPools
from tests.tiny_model import DIM

CONFIG = ClusterConfig.model_validate({"embedding": {"actors": {"min": 2, "max": 2}}})
MODEL = "scripted:dim=32,seed=1"
SLOW = f"{MODEL},ms=300,fail=poison"
SETTINGS = Settings.load({}, embedding_model=MODEL)
TEXTS = [f"text {i} speaks of {'many ' * (i % 50)}things" for i in range(300)]


class OnlyEmbedders(foreman.Foreman):
    """A foreman without the actors that other tests are about."""

    def __init__(self) -> None:
        self._config = CONFIG
        self._actors = foreman._embedders(CONFIG)


@pytest.fixture(scope="module")
def owner(ray_cluster: None) -> Iterator[Any]:
    environment = {"EMBEDDING_MODEL": MODEL}
    owner = (
        ray.remote(OnlyEmbedders)
        .options(num_cpus=0, runtime_env={"env_vars": environment})
        .remote()
    )  # fmt: skip
    yield owner
    ray.kill(owner)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def pools(owner: Any, metrics: Metrics) -> EmbeddingPools:
    await owner.__ray_ready__.remote()
    return EmbeddingPools(SETTINGS, names.embedders(CONFIG), metrics)


async def expected(reference: str) -> np.ndarray[Any, Any]:
    return matrix_of(await (await load_embedder(reference, SETTINGS)).embed(TEXTS))


@pytest.mark.requirement("CLU-02")
async def test_a_block_is_spread_over_the_actors_and_comes_back_in_order(
    pools: EmbeddingPools, metrics: Metrics
) -> None:
    made = await pools.default.embed_metered(TEXTS)
    np.testing.assert_array_equal(matrix_of(made.vectors), await expected(MODEL))
    assert made.usage.tokens == sum(len(text.split()) for text in TEXTS)
    assert pools.default.info.dim == 32
    assert metrics.embed_items.of(MODEL).value == len(TEXTS)
    assert metrics.embed_tokens.of(MODEL).value == made.usage.tokens
    assert f'agentcy_embed_batch_seconds_count{{embedder="{MODEL}"}} 1' in metrics.text(
        metrics.read()
    )


async def test_another_model_has_actors_of_its_own_which_all_processes_share(
    pools: EmbeddingPools, tiny_model: Path, owner: Any
) -> None:
    reference = f"local:{tiny_model}"
    other = EmbeddingPools(SETTINGS, names.embedders(CONFIG), Metrics())
    one, same, two = await asyncio.gather(
        pools.of(reference), pools.of(reference), other.of(reference)
    )
    assert one is same
    assert one.info == two.info
    assert one.info.dim == DIM
    assert matrix_of(await one.embed(TEXTS[:40])).shape == (40, DIM)
    assert await owner.embedders.remote(reference) == names.embedders_of(CONFIG, reference)


async def test_what_the_model_says_arrives_as_it_was_said(pools: EmbeddingPools) -> None:
    refusing = await pools.of(SLOW)
    with pytest.raises(EmbedderRefusedError) as refused:
        await refusing.embed(["poison"])
    assert refused.value.details["texts"] is True
    with pytest.raises(InvalidError, match="task: embed"):
        await pools.of("vllm:nowhere")
    with pytest.raises(InvalidError, match="cannot be read"):
        await pools.of("scripted:dim=none")


@pytest.mark.requirement("CLU-02")
async def test_an_actor_that_dies_costs_a_caller_no_text(pools: EmbeddingPools, owner: Any) -> None:
    pool = await pools.of(SLOW)
    working = asyncio.create_task(pool.embed(TEXTS))
    victim = ray.get_actor(names.embedders_of(CONFIG, SLOW)[0], namespace=NAMESPACE)
    ray.kill(victim, no_restart=False)
    async with asyncio.timeout(60):
        np.testing.assert_array_equal(matrix_of(await working), await expected(MODEL))


async def test_vectors_travel_beside_the_pickle_and_are_not_copied() -> None:
    made = await (await load_embedder(MODEL, SETTINGS)).embed_metered(TEXTS)
    beside: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(made, protocol=5, buffer_callback=beside.append)
    assert len(pickled) < 1_000
    read = pickle.loads(pickled, buffers=beside)
    assert np.shares_memory(matrix_of(read.vectors), matrix_of(made.vectors))
