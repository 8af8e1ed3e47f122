"""``swap_failed``, ``swap_empty``, ``swap_query_p99``: a change of the model while people search.

An organisation of ``size`` chunks goes from one model to another: filled, indexed, checked, cut
over, with everybody's questions going on all the time and for a while after. Each question has to
be answered, by one space or the other, and by something. Models are scripted ones, which cost
nothing, so that the database is what everybody shares; the gate lets everything through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.ingest.backfill.finish import IndexFinisher
from agentcy_ray.ingest.backfill.records import BackfillOptions
from agentcy_ray.ingest.backfill.runner import Backfiller
from agentcy_ray.ingest.swap.opening import open_desk, open_swap_runner
from agentcy_ray.ingest.swap.records import SwapOptions
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.backed_index import BackedIndex
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.queries import HybridQuery
from agentcy_ray.retrieval.scripted_embedder import Script, ScriptedEmbedder
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.redis import open_redis
from benchmarks.backfill_space import begun, packaged
from benchmarks.figures import Figure, absolute, compared
from benchmarks.fixtures import paragraphs
from benchmarks.stores import Bench, fresh_stores
from benchmarks.vector_corpus import quantile

SIZE, PEOPLE, ALONE, AFTER = 20_000, 4, 200, 200
"""Chunks; who asks at the same time; questions with no swap, and after the cut-over."""
OLD, NEW = "dim=384,seed=1", "dim=384,seed=2"


class Models:
    """The scripted model of each reference."""

    async def of(self, reference: str) -> ScriptedEmbedder:
        """See ``AnyEmbedders``."""
        return ScriptedEmbedder(Script.read(reference.partition(":")[2]))


@dataclass
class Asked:
    """What came of questions."""

    millis: list[float] = field(default_factory=list[float])
    failed: int = 0
    empty: int = 0


async def run(size: int = SIZE) -> list[Figure]:
    """Questions alone, then beside a whole swap."""
    async with fresh_stores() as bench, _opened(bench, size) as (search, swap):
        questions = paragraphs(400, words=6, seed=11)
        await _ask(search, bench, questions, ALONE)  # warms everything up
        alone = await _ask(search, bench, questions, ALONE)
        swapping = asyncio.create_task(swap())
        beside = await _ask(search, bench, questions, 0, swapping)
        took = await swapping
        after = await _ask(search, bench, questions, AFTER)
        count = len(beside.millis) + len(after.millis)
        print(f"{size:,} chunks swapped in {took:.1f} s beside {count:,} questions", flush=True)
        return [
            absolute("swap_failed", "questions", [beside.failed + after.failed], at_most=0),
            absolute("swap_empty", "questions", [beside.empty + after.empty], at_most=0),
            absolute("swap_questions", "questions", [count]),
            absolute("swap_chunks", "chunks/s", [size / took]),
            *(
                compared(
                    f"swap_query_{name}", "ms", "no swap",
                    [quantile(beside.millis, part)], [quantile(alone.millis, part)],
                )
                for name, part in (("p50", 0.5), ("p99", 0.99))
            ),
        ]  # fmt: skip


async def _ask(
    search: SearchService,
    bench: Bench,
    questions: list[str],
    count: int,
    until: asyncio.Task[float] | None = None,
) -> Asked:
    """Questions of several people: ``count`` in all, or as long as something goes on."""
    asked = Asked()
    number = 0

    async def person() -> None:
        nonlocal number
        while number < count if until is None else not until.done():
            number += 1
            query = HybridQuery(query=questions[number % len(questions)], top_k=10)
            began = time.perf_counter()
            try:
                answer = await search.hybrid(bench.owner.org_id, None, query)
            except AgentcyError as error:
                print(f"a question failed: {error}", flush=True)
                asked.failed += 1
            else:
                asked.empty += not answer.hits
            asked.millis.append(1000 * (time.perf_counter() - began))

    await asyncio.gather(*(person() for _ in range(PEOPLE)))
    return asked


@asynccontextmanager
async def _opened(bench: Bench, size: int) -> AsyncGenerator[tuple[SearchService, Any]]:
    """A search over the old model, and what swaps to the new one; it answers the seconds taken."""
    models, settings, org_id = Models(), bench.settings, bench.owner.org_id
    settings = settings.model_copy(
        update={"embedding_model": f"scripted:{OLD}", "agentcy_features_demo": True}
    )
    bench = replace(bench, settings=settings)
    await packaged(bench, paragraphs(size, words=12))
    spaces, queue = SpaceStore(bench.db, settings), PostgresQueue(settings, bench.db)
    filler = Backfiller(
        bench.db, open_objects(settings), spaces, models,
        Chunkers(bundled_tokenizer(), settings), IndexFinisher(bench.db, spaces, settings),
        settings, {},
    )  # fmt: skip
    info = (await models.of(f"scripted:{OLD}")).info
    space, backfill = await begun(bench, info, BackfillOptions())
    assert backfill.job_id is not None
    await filler.handle(await queue.store.get(org_id, backfill.job_id), Beat(1))
    await spaces.activate(org_id, space.id, timedelta(days=1))
    redis = await open_redis(bench.endpoints.redis_url, settings.redis_prefix)
    bell = Bell(redis)
    search = SearchService(bench.db, models, spaces, settings, bell=bell)
    desk = open_desk(bench.db, queue, models, search.routes, bell, settings)
    backends = VectorBackends(settings)
    index = BackedIndex(bench.db, settings, backends)
    runner = open_swap_runner(bench.db, queue, index, models, bell, settings)

    async def swap() -> float:
        began = time.perf_counter()
        options = SwapOptions(min_recall=0, min_overlap=0)
        planned = await desk.swaps.start(bench.owner, f"scripted:{NEW}", options)
        beat = Beat(1)
        await runner.run(org_id, planned.swap.id, beat)
        if beat.again_in is not None:  # it waits for its space
            made = (await runner.backfills.list(org_id, limit=1))[0]
            assert made.job_id is not None
            await filler.handle(await queue.store.get(org_id, made.job_id), Beat(1))
            await runner.run(org_id, planned.swap.id, Beat(1))
        ended = (await desk.swaps.get(org_id, planned.swap.id)).swap
        if ended.status != "cut_over":
            raise RuntimeError(f"the swap is {ended.status}: {ended.error or ended.reason}")
        return time.perf_counter() - began

    try:
        yield search, swap
    finally:
        await search.close()
        await backends.close()
        await bell.aclose()
        await redis.aclose()
