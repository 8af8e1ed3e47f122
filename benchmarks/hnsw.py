"""``build``, ``recall``, ``p50``, ``p99``: the index of a space of 200,000 vectors, loaded in bulk.

The control of the build is a plain CREATE INDEX, which locks writers out, over a copy of the table
with the same memory and processes; the control of a search is the bare SQL for as many candidates
with the same columns, over the same table, as the role that owns it. Questions are new points, the
truth is computed here over all vectors.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import numpy as np

from agentcy_ray.retrieval.bulk_copy import ROWS_SCHEMA
from agentcy_ray.retrieval.embedder import Matrix, metered
from agentcy_ray.retrieval.index_build import BuildReport
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.queries import Filters, HybridQuery, RagQuery
from agentcy_ray.retrieval.search import MIN_CANDIDATES, SearchService
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.retrieval.statements import vector_parameter
from agentcy_ray.stores.postgres import set_codecs
from benchmarks.figures import Figure, absolute, compared
from benchmarks.stores import Bench, fresh_stores
from benchmarks.vector_corpus import Corpus, GivenEmbedder, filled_space, quantile

ROWS, QUERIES, ROUNDS, K, GOAL = 200_000, 100, 3, 10, 0.95
_SHOWN = (
    "node_id, realm, labels, source_id, connector, external_id, name, text, url, properties, "
    "seen_at"
)
_NEAREST = """
SELECT {shown}, embedding <=> $1 AS distance FROM {table} WHERE archived_at IS NULL{where}
ORDER BY embedding <=> $1 LIMIT {limit}
"""
_CASES = {"unfiltered": Filters(), "filtered": Filters(labels=("Rare",))}


async def run(rows: int = ROWS) -> list[Figure]:
    """Build, then recall and latencies, each beside its control."""
    corpus = Corpus(keep=True)
    questions: dict[str, Matrix] = {}
    async with fresh_stores() as bench:
        spaces = SpaceStore(bench.db, bench.settings)
        embedder = GivenEmbedder(questions)
        space, report = await filled_space(bench, spaces, embedder.info, corpus, rows)
        questions |= {f"q {i}": point for i, point in enumerate(corpus.points(QUERIES))}
        bare = await asyncpg.connect(bench.endpoints.database_url)
        await set_codecs(bare)
        table = f"{ROWS_SCHEMA}.{space.table_name}"
        figures = [await _built(bare, bench, table, report)]
        service = SearchService(bench.db, OneEmbedder(metered(embedder)), spaces, bench.settings)
        labels = await bare.fetch(f"SELECT node_id FROM {table} WHERE labels @> '{{Rare}}'")
        rare = np.zeros(rows, dtype=bool)
        rare[[int(row[0][2:]) for row in labels]] = True
        for case, filters in _CASES.items():
            passing = rare if filters.labels else np.ones(rows, dtype=bool)
            truth = _truth(np.concatenate(corpus.vectors), passing, questions)
            figures.append(await _recall(service, bench, space, case, filters, truth))
            figures += await _latencies(service, bench, bare, space, case, filters, questions)
        await bare.close()
    return figures


async def _built(bare: Any, bench: Bench, table: str, report: BuildReport) -> Figure:
    """Seconds of both; ours builds six other indexes beside the graph."""
    used = report.resources
    assert used is not None
    s = bench.settings
    await bare.execute(f"CREATE TABLE bare AS SELECT * FROM {table}")
    await bare.execute("VACUUM (ANALYZE) bare")
    await bare.execute(
        f"SET maintenance_work_mem = '{used.memory // 1024}kB';"
        f" SET max_parallel_maintenance_workers = {used.workers}"
    )
    began = time.perf_counter()
    for body in (
        "btree (node_id)", "btree (source_id)", "btree (realm)", "gin (labels)",
        "gin (name gin_trgm_ops)", "gin (text gin_trgm_ops)",
        "hnsw (embedding halfvec_cosine_ops)"
        f" WITH (m = {s.hnsw_m}, ef_construction = {s.hnsw_ef_construction})",
    ):  # fmt: skip
        await bare.execute(f"CREATE INDEX ON bare USING {body}")
    seconds = time.perf_counter() - began
    await bare.execute("DROP TABLE bare; RESET ALL")
    return compared("build", "s", "plain CREATE INDEX", [report.seconds], [seconds], at_most=1.5)


async def _recall(
    service: SearchService,
    bench: Bench,
    space: Space,
    case: str,
    filters: Filters,
    truth: dict[str, set[str]],
) -> Figure:
    """Share of the true ten nearest among the ten hits, over all questions."""
    found: list[float] = []
    for text, right in truth.items():
        query = HybridQuery(
            query=text, top_k=K, text_weight=0, vector_weight=1, filters=filters, space=space.id
        )
        hits = (await service.hybrid(bench.owner.org_id, None, query)).hits
        assert len(hits) == K, "a filtered search must fill its page while rows pass"
        found.append(len({hit.node_id for hit in hits} & right) / K)
    mean = sum(found) / len(found)
    figure = absolute(f"recall {case}", "", [round(mean, 4)])
    return replace(figure, goal=f"≥ {GOAL}", met=mean >= GOAL, n=len(found))


async def _latencies(
    service: SearchService,
    bench: Bench,
    bare: Any,
    space: Space,
    case: str,
    filters: Filters,
    questions: dict[str, Matrix],
) -> list[Figure]:
    statement = _NEAREST.format(
        shown=_SHOWN, table=f"{ROWS_SCHEMA}.{space.table_name}", limit=MIN_CANDIDATES,
        where=" AND labels && '{Rare}'" if filters.labels else "",
    )  # fmt: skip
    await bare.execute(
        f"SET hnsw.ef_search = {bench.settings.hnsw_ef_search};"
        " SET hnsw.iterative_scan = relaxed_order"
    )
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    for _ in range(ROUNDS):
        controls: list[float] = []
        for point in questions.values():
            began = time.perf_counter()
            assert await bare.fetch(statement, vector_parameter(space, point))
            controls.append(1000 * (time.perf_counter() - began))
        theirs.append(controls)
        values: list[float] = []
        for text in questions:
            query = RagQuery(query=text, top_k=K, filters=filters, space=space.id)
            began = time.perf_counter()
            assert (await service.search(bench.owner.org_id, None, query)).hits
            values.append(1000 * (time.perf_counter() - began))
        ours.append(values)
    return [
        compared(
            f"{name} {case}", "ms", "bare SQL",
            [quantile(r, share) for r in ours], [quantile(r, share) for r in theirs],
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]  # fmt: skip


def _truth(
    vectors: Matrix, passing: np.ndarray, questions: dict[str, Matrix]
) -> dict[str, set[str]]:
    """The exact answer to each question among the vectors that pass."""
    ids = np.flatnonzero(passing)
    some = vectors[ids]
    found: dict[str, set[str]] = {}
    for text, point in questions.items():
        near: Sequence[int] = np.argpartition(-(some @ point), K)[:K].tolist()
        found[text] = {f"n_{ids[place]}" for place in near}
    return found
