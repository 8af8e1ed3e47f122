"""``query_during_backfill_p50``, ``…_p99``; ``query_at_half_share_p50``, ``…_p99``.

What a person waits for an answer of the hybrid search, question embedded, while a backfill has the
same model in the same process: at the whole share that a backfill takes unless told, and at half of
it. The control is the same questions with no backfill, in turns with the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson
import pyarrow as pa

from agentcy_ray.core.batches import CHUNKS
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.backfill.records import BackfillOptions
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.passages import chunk_key
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import SpaceStore
from benchmarks.backfill_space import attempt, begun, dropped, forget, packaged
from benchmarks.figures import Figure, compared
from benchmarks.fixtures import paragraphs
from benchmarks.hybrid_search import served_hybrid
from benchmarks.stores import Bench
from benchmarks.vector_corpus import quantile

STORED, FILLED, QUESTIONS, ROUNDS = 400, 2_000, 60, 3
PAUSE_SECS = 0.05
"""Between two questions of a person."""
SHARES = {"query_during_backfill": 1.0, "query_at_half_share": 0.5}


async def query_figures(bench: Bench) -> list[Figure]:
    """Milliseconds of questions with and without a backfill beside them."""
    embedder = await asyncio.to_thread(LocalEmbedder.load, Settings.load({}))
    spaces = SpaceStore(bench.db, bench.settings)
    await _stored(bench, spaces, embedder)
    service = SearchService(bench.db, OneEmbedder(embedder), spaces, bench.settings)
    questions = paragraphs(QUESTIONS, words=7, seed=11)
    source = await packaged(bench, paragraphs(FILLED, words=120))
    await _asked(service, bench, questions)  # warms everything up
    taken: dict[str, list[list[float]]] = {name: [] for name in ("alone", *SHARES)}
    for _ in range(ROUNDS):
        taken["alone"].append(await _asked(service, bench, questions))
        for name, share in SHARES.items():
            taken[name].append(await _beside(service, bench, embedder, questions, share))
    await service.close()
    await forget(bench, source)
    return [
        compared(
            f"{name}_{suffix}", "ms", "no backfill",
            [quantile(some, part) for some in taken[name]],
            [quantile(some, part) for some in taken["alone"]],
        )
        for name in SHARES
        for suffix, part in (("p50", 0.5), ("p99", 0.99))
    ]  # fmt: skip


async def _beside(
    service: SearchService,
    bench: Bench,
    embedder: LocalEmbedder,
    questions: Sequence[str],
    share: float,
) -> list[float]:
    """The questions, asked once the first block is written; the backfill is cut off after them."""
    options = BackfillOptions(share=share, block_chunks=64)
    # Of the model that the active space has, told apart from it by how its numbers are kept.
    space, backfill = await begun(bench, embedder.info, options, storage="vector")
    started = asyncio.Event()

    def probe(name: str) -> None:
        if name == "written":
            started.set()

    filling = asyncio.create_task(attempt(bench, backfill, embedder, probe))
    try:
        async with asyncio.timeout(120):
            await started.wait()
        taken = await _asked(service, bench, questions)
        if filling.done():
            raise RuntimeError("the backfill ended before the questions did; fill more")
        return taken
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
        await dropped(bench, space)


async def _asked(service: SearchService, bench: Bench, questions: Sequence[str]) -> list[float]:
    taken: list[float] = []
    for question in questions:
        await asyncio.sleep(PAUSE_SECS)
        began = time.perf_counter()
        await served_hybrid(service, bench.owner.org_id, question)
        taken.append(1000 * (time.perf_counter() - began))
    return taken


async def _stored(bench: Bench, spaces: SpaceStore, embedder: LocalEmbedder) -> None:
    """An active space that the questions are answered from."""
    space = await spaces.ensure_active(bench.owner.org_id, embedder.info)
    texts, source = paragraphs(STORED, words=40, seed=3), new_id()
    rows = [
        {
            "chunk_key": chunk_key(f"q_{i}", 0, text), "node_id": f"q_{i}", "text": text,
            "realm": "development", "labels": ["File"], "source_id": source.hex, "url": None,
            "name": f"file_{i}.py", "properties": orjson.dumps({}).decode(), "connector": "git",
            "external_id": f"file_{i}.py", "seen_at": datetime.now(UTC),
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
    batch = pa.RecordBatch.from_pylist(rows, schema=CHUNKS)
    index = PgVectorIndex(bench.db, bench.settings)
    await index.upsert(space, batch, await embedder.embed(texts))
