"""``p50``, ``p99``: a hybrid search through our service, against the bare SQL of the same search.

Both get the same query vectors, so neither counts the embedding of the question.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import numpy as np
import orjson
import pyarrow as pa

from agentcy_ray.core.batches import CHUNKS
from agentcy_ray.core.ids import new_id
from agentcy_ray.retrieval.embedder import Matrix, metered, vectors_of
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.passages import chunk_key
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.queries import HybridQuery
from agentcy_ray.retrieval.search import MIN_CANDIDATES, SearchService
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.retrieval.statements import hybrid_statement, planner_settings
from agentcy_ray.stores.postgres import set_codecs
from benchmarks.figures import Figure, compared
from benchmarks.fixtures import paragraphs
from benchmarks.stores import Bench, fresh_stores
from benchmarks.vector_corpus import DIM, GivenEmbedder, quantile

CHUNKS_STORED, QUERIES, ROUNDS, CLUSTERS = 10_000, 60, 5, 50
_BIND = "SELECT set_config('role', 'agentcy_app', true), set_config('app.org_id', $1, true)"


async def run() -> list[Figure]:
    """Latencies of both over the same questions, in turns."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(CLUSTERS, DIM))
    questions = paragraphs(QUERIES, words=7, seed=11)
    vectors = dict(zip(questions, _near(rng, centres, QUERIES), strict=True))
    async with fresh_stores() as bench:
        spaces = SpaceStore(bench.db, bench.settings)
        embedder = GivenEmbedder(vectors)
        space = await spaces.ensure_active(bench.owner.org_id, embedder.info)
        await _fill(bench, space, _near(rng, centres, CHUNKS_STORED))
        service = SearchService(bench.db, OneEmbedder(metered(embedder)), spaces, bench.settings)
        bare = await asyncpg.connect(bench.endpoints.database_url)
        await set_codecs(bare)
        version = await spaces.vector_version()
        ours: list[list[float]] = []
        theirs: list[list[float]] = []
        for _ in range(ROUNDS):
            theirs.append([
                await bare_hybrid(bench, bare, space, version, text, vectors[text])
                for text in questions
            ])
            ours.append([
                await served_hybrid(service, bench.owner.org_id, text) for text in questions
            ])
        await bare.close()
    return [
        compared(
            name, "ms", "the bare statement",
            [quantile(r, share) for r in ours], [quantile(r, share) for r in theirs],
            at_most=1.3,
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]  # fmt: skip


async def served_hybrid(service: SearchService, org_id: UUID, text: str) -> float:
    """Milliseconds of a search of ours."""
    began = time.perf_counter()
    answer = await service.hybrid(org_id, None, HybridQuery(query=text, top_k=10))
    assert len(answer.hits) == 10
    return 1000 * (time.perf_counter() - began)


async def bare_hybrid(
    bench: Bench,
    connection: asyncpg.Connection[asyncpg.Record],
    space: Space,
    version: tuple[int, int],
    text: str,
    vector: Matrix,
) -> float:
    """Milliseconds of its statement on a connection of its own, behind the same wall."""
    query = HybridQuery(query=text, top_k=10)
    statement = hybrid_statement(space, vector, None, query, MIN_CANDIDATES)
    local = planner_settings(bench.settings, version, MIN_CANDIDATES, exact=False)
    began = time.perf_counter()
    async with connection.transaction():
        await connection.execute(_BIND, str(bench.owner.org_id))
        await connection.fetchrow(local.sql, *local.values)
        await connection.fetch(statement.sql, *statement.values)
    return 1000 * (time.perf_counter() - began)


async def _fill(bench: Bench, space: Space, vectors: Matrix) -> None:
    texts, source = paragraphs(CHUNKS_STORED, words=40), new_id()
    index = PgVectorIndex(bench.db, bench.settings)
    for start in range(0, CHUNKS_STORED, 2_000):
        rows = [
            {
                "chunk_key": chunk_key(f"n_{i}", 0, texts[i]), "node_id": f"n_{i}",
                "realm": "development", "labels": ["File"], "source_id": source.hex,
                "name": f"file_{i}.py", "text": texts[i], "url": None,
                "properties": orjson.dumps({}).decode(), "connector": "git",
                "external_id": f"file_{i}.py", "seen_at": datetime.now(UTC),
            }
            for i in range(start, start + 2_000)
        ]  # fmt: skip
        batch = pa.RecordBatch.from_pylist(rows, schema=CHUNKS)
        await index.upsert(space, batch, vectors_of(vectors[start : start + 2_000]))


def _near(rng: np.random.Generator, centres: np.ndarray, count: int) -> Matrix:
    points = centres[rng.integers(len(centres), size=count)] + 0.4 * rng.normal(size=(count, DIM))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
