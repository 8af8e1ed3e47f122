"""``p50``, ``p99``: hybrid search over 10,000 and over a million chunks, and how it grows between.

Beside each the bare statement of the same search over the same table. Questions are words of the
texts' own vocabulary, frequent and rare as they come, and new points.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import asyncpg

from agentcy_ray.retrieval.embedder import Matrix, metered
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.postgres import set_codecs
from benchmarks.figures import Figure, absolute, compared
from benchmarks.hybrid_search import bare_hybrid, served_hybrid
from benchmarks.stores import fresh_stores
from benchmarks.vector_corpus import Corpus, GivenEmbedder, filled_space, quantile

SMALL, LARGE, QUERIES, ROUNDS, WORDS = 10_000, 1_000_000, 60, 5, 5
_SHARES = (("p50", 0.5), ("p99", 0.99))

Latencies = tuple[list[list[float]], list[list[float]]]
"""Milliseconds of ours and of the bare statement, by round."""


async def run(large: int = LARGE) -> list[Figure]:
    """Both sizes one after the other, each in stores of its own."""
    measured = {size: await _measured(size) for size in (SMALL, large)}
    figures = [
        compared(
            f"{name} at {size:,}", "ms", "the bare statement",
            [quantile(r, share) for r in ours], [quantile(r, share) for r in theirs],
            at_most=2.0 if name == "p99" else None,
        )
        for size, (ours, theirs) in measured.items()
        for name, share in _SHARES
    ]  # fmt: skip
    for name, share in _SHARES:
        small, grown = (
            sorted(quantile(r, share) for r in measured[size][0])[ROUNDS // 2]
            for size in (SMALL, large)
        )
        times = absolute(f"{name} growth, chunks × {large / SMALL:g}", "×", [grown / small])
        figures.append(replace(times, n=ROUNDS))
    return figures


async def _measured(size: int) -> Latencies:
    corpus = Corpus()
    vectors: dict[str, Matrix] = {}
    async with fresh_stores() as bench:
        spaces = SpaceStore(bench.db, bench.settings)
        embedder = GivenEmbedder(vectors)
        space, _ = await filled_space(bench, spaces, embedder.info, corpus, size)
        await spaces.ready(space.org_id, space.id)
        await spaces.activate(space.org_id, space.id, timedelta(0))
        vectors |= dict(zip(corpus.texts(QUERIES, WORDS), corpus.points(QUERIES), strict=True))
        service = SearchService(bench.db, OneEmbedder(metered(embedder)), spaces, bench.settings)
        version = await spaces.vector_version()
        bare = await asyncpg.connect(bench.endpoints.database_url)
        await set_codecs(bare)
        ours: list[list[float]] = []
        theirs: list[list[float]] = []
        for text, vector in vectors.items():  # pages and plans come into memory
            await bare_hybrid(bench, bare, space, version, text, vector)
        for _ in range(ROUNDS):
            theirs.append([
                await bare_hybrid(bench, bare, space, version, text, vector)
                for text, vector in vectors.items()
            ])
            ours.append([
                await served_hybrid(service, bench.owner.org_id, text) for text in vectors
            ])
        await bare.close()
    return ours, theirs
