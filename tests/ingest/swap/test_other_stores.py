"""From a space in Postgres to one whose vectors lie in Qdrant, while its sources go on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from qdrant_client import AsyncQdrantClient

from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.backfill.finish import IndexFinisher
from agentcy_ray.ingest.swap.opening import open_desk, open_swap_runner
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.retrieval.backed_index import BackedIndex
from agentcy_ray.retrieval.qdrant_store import QdrantStore
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.retrieval.vector_backends import VectorBackends
from tests.ingest.swap.conftest import MakeSwapping
from tests.ingest.swap.swapping import OLD, carried_out, carriers


@pytest.mark.requirement("RAG-03")
async def test_a_swap_moves_an_organisation_into_another_store_by_the_model_it_has(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping(60, script=OLD)
    house, bell, models = swapping.house, swapping.bell, swapping.models
    store = QdrantStore(AsyncQdrantClient(":memory:"), Settings.load({}))
    house.settings = house.settings.model_copy(update={"vector_backend": "qdrant"})
    backends = VectorBackends(house.settings, {"qdrant": store})
    spaces = SpaceStore(house.db, house.settings)
    house.stores = replace(
        house.stores, spaces=spaces, index=BackedIndex(house.db, house.settings, backends)
    )
    queue = PostgresQueue(house.settings, house.db)
    await swapping.search.close()
    swapping.search = SearchService(
        house.db, models, spaces, house.settings, bell=bell, backends=backends
    )
    swapping.desk = open_desk(house.db, queue, models, swapping.search.routes, bell, house.settings)
    former = await swapping.active()
    swap = await swapping.plan()
    runner = open_swap_runner(
        house.db, queue, house.stores.index, models, bell, house.settings, backends
    )
    filler = replace(
        carriers(house, bell, models)[1],
        backends=backends,
        finisher=IndexFinisher(house.db, spaces, house.settings, backends),
    )
    await carried_out(runner, filler, swap)
    swap = await swapping.now(swap)
    assert swap.status == "cut_over", (swap.reason, swap.gate)
    later = await swapping.active()
    assert (former.backend, later.backend, later.id) == ("pgvector", "qdrant", swap.to_space)
    assert (found := await swapping.ask("cedar")).hits
    assert found.space == later.id

    graph = house.source.graph
    graph.drop(("Item", "i2"))
    graph.nodes["Item", "i3"]["name"] = "an obelisk of granite"
    await house.sync()
    assert await swapping.texts(former.id) == await swapping.texts(later.id)
    live = await house.stores.index.count(later)
    assert await store.count(later) == live + 1  # hidden, until it is pruned
    hits = (await swapping.ask("obelisk of granite")).hits
    assert hits[0].name == "an obelisk of granite"
    assert hits[0].scores["vector"] > 0.3
    await store.close()
