"""Opening what spaces and swaps are asked of, and what carries swaps out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentcy_ray.ingest.backfill.store import BackfillStore
from agentcy_ray.ingest.swap.desk import EmbeddingDesk
from agentcy_ray.ingest.swap.gate import GateCheck, IndexMeasure
from agentcy_ray.ingest.swap.requests import SwapRequests
from agentcy_ray.ingest.swap.runner import SwapRunner
from agentcy_ray.ingest.swap.switch import Switch
from agentcy_ray.retrieval.query_sample import QuerySample
from agentcy_ray.retrieval.routing import Routes
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import SpaceStore

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.jobs.queue import JobQueue
    from agentcy_ray.retrieval.index import VectorIndex
    from agentcy_ray.retrieval.one_embedder import AnyEmbedders
    from agentcy_ray.retrieval.vector_backends import VectorBackends
    from agentcy_ray.stores.bell import Bell
    from agentcy_ray.stores.postgres import Database


def open_desk(
    db: Database,
    queue: JobQueue,
    embedders: AnyEmbedders,
    routes: Routes,
    bell: Bell,
    settings: Settings,
) -> EmbeddingDesk:
    """The desk of a process; ``routes`` are those by which it searches."""
    spaces = SpaceStore(db, settings)
    backfills = BackfillStore(db, queue, spaces)
    switch = Switch(db, spaces, routes, settings)
    return EmbeddingDesk(
        spaces=spaces,
        embedders=embedders,
        backfills=backfills,
        swaps=SwapRequests(db, queue, spaces, backfills, switch, bell, settings),
        switch=switch,
        routes=routes,
        measure=IndexMeasure(db, spaces, settings),
    )


def open_swap_runner(
    db: Database,
    queue: JobQueue,
    index: VectorIndex,
    embedders: AnyEmbedders,
    bell: Bell,
    settings: Settings,
    backends: VectorBackends | None = None,
) -> SwapRunner:
    """What carries swaps out in a worker. Its searches are no queries of people: none is kept."""
    spaces = SpaceStore(db, settings)
    gate = GateCheck(
        db=db,
        spaces=spaces,
        search=SearchService(db, embedders, spaces, settings, backends=backends),
        sample=QuerySample(db, settings),
        measure=IndexMeasure(db, spaces, settings, backends),
        settings=settings,
    )
    return SwapRunner(
        db=db,
        spaces=spaces,
        index=index,
        embedders=embedders,
        backfills=BackfillStore(db, queue, spaces),
        gate=gate,
        switch=Switch(db, spaces, Routes(db, spaces, bell), settings),
        settings=settings,
        bell=bell,
    )
