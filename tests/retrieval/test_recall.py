"""The index at its shipped settings finds what an exact comparison finds, filtered or not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import Matrix, vectors_of
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.queries import Filters, HybridQuery
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.stores.postgres import Database
from tests.retrieval.chunks import ChosenEmbedder, Versioned, batch, chunk, units
from tests.retrieval.conftest import MakeOrg

ROWS, DIM, CLUSTERS, QUERIES, K = 3_000, 96, 60, 60, 10
DAY = datetime(2000, 1, 1, tzinfo=UTC)  # so old that recency orders nothing


@dataclass
class Corpus:
    org: UUID
    space: Space
    vectors: Matrix
    queries: Matrix
    realms: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    days: np.ndarray[Any, Any]
    embedder: ChosenEmbedder

    def nearest(self, query: int, passing: np.ndarray[Any, Any]) -> set[str]:
        """The exact answer."""
        ids = np.flatnonzero(passing)
        order = np.argsort(-(self.vectors[ids] @ self.queries[query]))[:K]
        return {f"n_{i}" for i in ids[order]}


@pytest.fixture(scope="module")
async def corpus(make_org: MakeOrg, spaces: SpaceStore, index: PgVectorIndex) -> Corpus:
    """Clustered vectors; a cluster and what the filters ask for have nothing to do with another."""
    rng = np.random.default_rng(11)
    centres = units(rng.standard_normal((CLUSTERS, DIM)))

    def around(size: int) -> Matrix:
        noise = rng.standard_normal((size, DIM)) * 0.08
        return units(centres[rng.integers(CLUSTERS, size=size)] + noise)

    queries = around(QUERIES)
    embedder = ChosenEmbedder(DIM, {f"q {i}": queries[i] for i in range(QUERIES)})
    org = await make_org()
    space = await spaces.ensure_active(org, embedder.info)
    vectors = around(ROWS)
    realms = rng.choice(["development", "crm"], size=ROWS, p=[0.7, 0.3])
    labels = rng.choice(["File", "Issue", "Rare"], size=ROWS, p=[0.79, 0.2, 0.01])
    days = rng.integers(0, 100, size=ROWS)
    rows = [
        chunk(
            f"n_{i}", f"t {i}", realm=str(realms[i]), labels=[str(labels[i])],
            seen_at=DAY + timedelta(days=int(days[i])),
        )
        for i in range(ROWS)
    ]  # fmt: skip
    await index.upsert(space, batch(rows), vectors_of(vectors))
    return Corpus(org, space, vectors, queries, realms, labels, days, embedder)


@pytest.mark.requirement("RAG-05")
@pytest.mark.parametrize("version", [(0, 8), (0, 7)], ids=["iterative", "over-fetch"])
@pytest.mark.parametrize("case", ["all", "realm", "label", "rare label", "time", "together"])
async def test_recall_at_ten_is_at_least_95_percent(
    corpus: Corpus, db: Database, settings: Settings, case: str, version: tuple[int, int]
) -> None:
    filters, realms, passing = _case(corpus, case)
    service = SearchService(
        db, OneEmbedder(corpus.embedder), Versioned(db, settings, version), settings
    )
    found = 0
    for i in range(QUERIES):
        query = HybridQuery(
            query=f"q {i}", top_k=K, text_weight=0, vector_weight=1, filters=filters
        )
        hits = (await service.hybrid(corpus.org, realms, query)).hits
        assert len(hits) == K, "a filtered search must fill its page while rows pass"
        found += len({hit.node_id for hit in hits} & corpus.nearest(i, passing))
    assert found / (QUERIES * K) >= 0.95


def _case(corpus: Corpus, case: str) -> tuple[Filters, tuple[str, ...] | None, Any]:
    everything = np.ones(ROWS, dtype=bool)
    match case:
        case "realm":
            return Filters(), ("crm",), corpus.realms == "crm"
        case "label":
            return Filters(labels=("Issue",)), None, corpus.labels == "Issue"
        case "rare label":
            return Filters(labels=("Rare",)), None, corpus.labels == "Rare"
        case "time":
            return Filters(after=DAY + timedelta(days=90)), None, corpus.days >= 90
        case "together":
            filters = Filters(labels=("Issue",), before=DAY + timedelta(days=50))
            passing = (corpus.labels == "Issue") & (corpus.days < 50) & (corpus.realms == "crm")
            return filters, ("crm",), passing
        case _:
            return Filters(), None, everything
