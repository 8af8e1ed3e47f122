"""A node with embedding actors on it is lost: the backfill goes on with those that are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agentcy_ray.cli import patience
from agentcy_ray.core.errors import AgentcyError, EmbedderUnavailableError
from agentcy_ray.core.ids import new_id
from agentcy_ray.retrieval.embedder import Embedded
from agentcy_ray.runtime.backfill_data import RayDataDriver
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.cluster_config.parts import EmbeddingActors
from agentcy_ray.runtime.embedding import EmbeddingActor, EmbeddingPool
from tests.ingest.backfill.conftest import MakeFilling
from tests.ingest.backfill.filling import Filling, Models, slow_model
from tests.ingest.backfill.nodes import START_SECS, Node, another_node
from tests.ingest.conftest import MakeHouse
from tests.ingest.memory_source import MemorySource, chain

pytestmark = pytest.mark.chaos

SIZE, LANES, BLOCK, ACTORS = 200, 2, 16, 2
ATTEMPTS = 6
"""A busy machine may take longer to start actors anew than one attempt waits for them."""
PIPED = 600
"""Three stretches of a pipeline, which tells of one when all its blocks are written."""


class Telling(EmbeddingActor):
    """Writes down what it embeds, and on which node."""

    def __init__(self, reference: str, told: Path) -> None:
        super().__init__(1, reference=reference)
        self._told = told

    async def embed(self, texts: list[str]) -> Embedded | AgentcyError:
        node = ray.get_runtime_context().get_node_id()
        with self._told.open("a") as file:  # it outlives the node
            file.write("".join(f"{node} {text!r}\n" for text in texts))
        return await super().embed(texts)

    async def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


async def actors_on(node: Node, reference: str, told: Path) -> list[str]:
    """Names of actors that begin on a node and, when it is lost, go on where there is room."""
    there = NodeAffinitySchedulingStrategy(node.id, soft=True)

    async def begun() -> str | None:
        name = f"telling-{new_id().hex}"
        actor: Any = ray.remote(Telling).options(
            name=name, namespace=NAMESPACE, lifetime="detached", num_cpus=0, max_restarts=-1,
            scheduling_strategy=there,
        ).remote(reference, told)  # fmt: skip
        if await actor.node.remote() == node.id:
            return name
        ray.kill(actor)  # whoever chose its place had not heard of the node yet
        return None

    return [await patience.until(begun, limit_secs=START_SECS) for _ in range(ACTORS)]


def let_go(names: Sequence[str]) -> None:
    for name in names:
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))


@pytest.mark.requirement("EMB-06")
async def test_a_lost_node_costs_a_block_of_each_lane_at_most(
    make_filling: MakeFilling, ray_cluster: None, tmp_path: Path
) -> None:
    filling = await make_filling(SIZE)
    reference, told = filling.model.info.reference, tmp_path / "told"
    async with another_node("away", tmp_path) as node:
        names = await actors_on(node, reference, told)
        models = Models({"words": filling.house.embedder, reference: EmbeddingPool(names)})
        filling.house.stores = replace(filling.house.stores, embedders=models)
        left = 3

        def probe(name: str) -> None:
            nonlocal left
            left -= name == "written"
            if left == 0 and name == "written":
                node.lose()

        backfill = await filling.start(lanes=LANES, block_chunks=BLOCK)
        attempts, ended = 0, None
        while ended is None:
            attempts += 1
            try:
                ended = await filling.attempt(backfill, last=attempts == ATTEMPTS, probe=probe)
            except EmbedderUnavailableError:
                assert attempts < ATTEMPTS, "its actors did not come back"
        let_go(names)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    assert (ended.blocks, ended.chunks) == (ended.blocks_done, SIZE)
    lines = told.read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == 2, "it went on on another node"
    assert len(lines) - SIZE <= LANES * BLOCK * attempts


@pytest.mark.slow
async def test_a_pipeline_goes_on_on_the_nodes_that_are_left(
    make_house: MakeHouse, ray_cluster: None, tmp_path: Path
) -> None:
    house = await make_house(MemorySource(graph=chain(PIPED)))
    filling = await Filling.of(house, slow_model())
    settings = filling.house.settings.model_copy(update={"agentcy_features_demo": True})
    filling.house.settings = settings
    url = filling.house.db._pool._connect_args[0]
    part = EmbeddingActors.model_validate({
        "actors": {"min": 2, "max": 2}, "resources": {"embeds": 1},
    })  # fmt: skip
    drivers = {"ray-data": RayDataDriver(settings, url, part)}
    async with another_node("embeds", tmp_path) as one, another_node("embeds", tmp_path) as two:
        lost: list[Node] = []
        written_after: list[str] = []

        def probe(name: str) -> None:
            if name == "written" and lost:
                written_after.append(name)
            if name == "written" and not lost:
                lost.append(one if one.runs("FillStage") else two)
                lost[0].lose()

        backfill = await filling.start("ray-data", block_chunks=BLOCK)
        ended = await filling.attempt(backfill, drivers=drivers, probe=probe)
        assert len(lost) == 1
        assert written_after, "there was work left"
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    assert (ended.blocks, ended.chunks) == (ended.blocks_done, PIPED)
