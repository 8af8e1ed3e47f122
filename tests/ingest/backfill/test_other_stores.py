"""Filling a space whose vectors lie in another store: nothing is marked that it has not got."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest
from qdrant_client import AsyncQdrantClient

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.backfill.finish import IndexFinisher
from agentcy_ray.retrieval.embedder import Vectors
from agentcy_ray.retrieval.qdrant_store import QdrantStore
from agentcy_ray.retrieval.queries import HybridQuery
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.space import Space
from agentcy_ray.retrieval.vector_backends import VectorBackends
from tests.ingest.backfill.filling import Filling
from tests.ingest.conftest import MakeHouse
from tests.ingest.memory_source import MemorySource, chain


class Failing(QdrantStore):
    """Gives out once, after ``after`` writes: the write is in the store, and nobody was told."""

    after = 3

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> None:
        await super().upsert(space, chunks, vectors)
        self.after -= 1
        if self.after == 0:
            raise StoreUnavailableError("Qdrant does not answer; see whether it is up")


@pytest.fixture
async def store() -> AsyncIterator[Failing]:
    made = Failing(AsyncQdrantClient(":memory:"), Settings.load({}))
    yield made
    await made.close()


@pytest.mark.requirement("RAG-03")
async def test_a_store_that_gave_out_midway_has_every_vector_once_in_the_end(
    make_house: MakeHouse, store: Failing
):
    house = await make_house(MemorySource(graph=chain(100)))
    backends = VectorBackends(house.settings, {"qdrant": store})
    filling = await Filling.of(house, backend="qdrant")
    finisher = IndexFinisher(house.db, house.stores.spaces, house.settings, backends)
    how: dict[str, Any] = {"backends": backends, "finisher": finisher}
    backfill = await filling.start(lanes=1)
    with pytest.raises(StoreUnavailableError):
        await filling.attempt(backfill, last=False, **how)
    held = await filling.held()
    assert 0 < held.total() < await store.count(filling.space)
    ended = await filling.attempt(backfill, **how)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    assert await store.count(filling.space) == ended.chunks == (await filling.held()).total()
    assert ended.recall is not None
    assert ended.recall["mean"] >= 0.95
    space = await house.stores.spaces.get(house.org_id, filling.space.id)
    assert (space.backend, space.indexed_at is not None) == ("qdrant", True)
    search = SearchService(
        house.db, house.stores.embedders, house.stores.spaces, house.settings, backends=backends
    )
    asked = HybridQuery(query="item 7", space=filling.space.id)
    hits = (await search.hybrid(house.org_id, None, asked)).hits
    assert "item 7" in {hit.name for hit in hits}
    assert all(hit.scores["vector"] > 0 for hit in hits)
    await search.close()
