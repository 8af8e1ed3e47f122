"""What runs inside the actors: the floors below, opened with this process's settings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from agentcy_ray.connectors.registry import builtin_registry
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core import interpreter
from agentcy_ray.core.logs import set_up_logs
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.service import open_ingest
from agentcy_ray.jobs.opening import open_queue
from agentcy_ray.jobs.worker import JobWorker
from agentcy_ray.policy.service import PolicyService
from agentcy_ray.runtime.backfill_data import RayDataDriver
from agentcy_ray.runtime.cluster_config import load_cluster_config
from agentcy_ray.runtime.embedding_pools import EmbeddingPools
from agentcy_ray.runtime.kyma_writers import KymaWriterPool
from agentcy_ray.runtime.policy_replay import Replayer, on_ray
from agentcy_ray.runtime.served_models import ServedModels
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.resolve import resolve_endpoints
from agentcy_ray.stores.shared_metrics import SharedMetrics

HOST_CONNECTIONS = 4
"""A session host only reads configs; tools do not touch the database."""

BACKFILLS_AT_ONCE = 2
"""In one ingest worker; each is mostly waiting for the model."""

WAITING_AT_ONCE = 4
"""Swaps of an ingest worker that begin, or are compared, at a time; one that waits has no place."""


class Workers:
    """Job workers of one process, side by side."""

    def __init__(self, workers: Sequence[JobWorker]) -> None:
        self._workers = tuple(workers)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; each finishes or hands back what it runs."""
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.run(stop))


async def open_sources(settings: Settings) -> SourceStore:
    """The sources of a session host. Hosts and ingest workers alone open credentials."""
    set_up_logs(settings)
    endpoints = await resolve_endpoints(settings)
    db = await open_database(
        endpoints.database_url,
        pool_max=HOST_CONNECTIONS,
        statement_cache=settings.database_statement_cache,
    )
    interpreter.settle()
    return SourceStore(db, open_vault(settings), builtin_registry(settings))


async def open_ingest_worker(
    settings: Settings, name: str, embedders: Sequence[str], kyma_writers: Sequence[str]
) -> tuple[Workers, Callable[[], Awaitable[None]]]:
    """Job workers for syncs, replays of policies and migrations, and what closes them."""
    set_up_logs(settings)
    endpoints = await resolve_endpoints(settings)
    metrics = Metrics()
    sink = KymaWriterPool(kyma_writers) if kyma_writers else None
    config = load_cluster_config(settings.agentcy_cluster_config)
    pools = EmbeddingPools(settings, embedders, metrics, ServedModels(config.models))
    ray_data = RayDataDriver(settings, endpoints.database_url, config.embedding, config.models)
    ingest = await open_ingest(
        settings, endpoints, pools, metrics=metrics, sink=sink, drivers={"ray-data": ray_data}
    )
    redis = await open_redis(endpoints.redis_url, settings.redis_prefix)
    stop = asyncio.Event()
    sharing = asyncio.create_task(SharedMetrics(redis, metrics).run(stop))
    queue = open_queue(settings, ingest.db, redis)
    policy = PolicyService(ingest.db, ingest.bell, settings)
    handlers = {**ingest.handlers(), **Replayer(ingest.db, policy, on_ray).handlers()}

    async def close() -> None:
        stop.set()
        await sharing
        await queue.close()
        await ingest.close()
        await redis.aclose()

    workers = [JobWorker(queue, handlers, name, settings, bell=ingest.bell)]
    if long := ingest.long_handlers():  # beside the others, so that syncs go on meanwhile
        workers.append(JobWorker(queue, long, f"{name}-long", settings, bell=ingest.bell))
    embed = ingest.embed_handlers()
    workers.append(
        JobWorker(
            queue, embed, f"{name}-embed", settings, bell=ingest.bell, concurrency=BACKFILLS_AT_ONCE
        )
    )
    waiting = ingest.waiting_handlers()
    workers.append(
        JobWorker(
            queue, waiting, f"{name}-wait", settings, bell=ingest.bell, concurrency=WAITING_AT_ONCE
        )
    )
    interpreter.settle()
    return Workers(workers), close
