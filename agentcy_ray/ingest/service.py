"""Ingest as one thing: its stores opened, its job handlers ready for a worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from agentcy_ray.audit.log import AuditLog
from agentcy_ray.audit.retention import KIND as AUDIT_KIND
from agentcy_ray.audit.retention import AuditRetention
from agentcy_ray.budgets.ledger import Ledger
from agentcy_ray.connectors.continuous import READER as SEGMENTS
from agentcy_ray.connectors.redaction import without_secrets
from agentcy_ray.connectors.registry import Registry, builtin_registry
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.context.factory import open_engine
from agentcy_ray.context.migration.opening import has_both, open_router
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.backfill.finish import IndexFinisher
from agentcy_ray.ingest.backfill.records import Engine
from agentcy_ray.ingest.backfill.runner import Backfiller
from agentcy_ray.ingest.backfill.store import JOB_KIND as BACKFILL_KIND
from agentcy_ray.ingest.backfill.work import Driver
from agentcy_ray.ingest.continuous.file_drop import FileDrops
from agentcy_ray.ingest.continuous.ledger import KIND as PIPELINE_KIND
from agentcy_ray.ingest.continuous.publish import PipelinePublisher
from agentcy_ray.ingest.continuous.segments import SourceSegments
from agentcy_ray.ingest.erasure import KIND as ERASE_KIND
from agentcy_ray.ingest.erasure import Erasure
from agentcy_ray.ingest.extract import OpenedSource, OpenSource
from agentcy_ray.ingest.graph_publish import Probe
from agentcy_ray.ingest.migration.runner import JOB_KIND as MIGRATION_KIND
from agentcy_ray.ingest.migration.runner import MigrationRunner
from agentcy_ray.ingest.publish import Stores
from agentcy_ray.ingest.retention import PRUNE_KIND, PURGE_KIND, Retention
from agentcy_ray.ingest.runner import SyncRunner, no_probe
from agentcy_ray.ingest.swap.opening import open_swap_runner
from agentcy_ray.ingest.swap.runner import JOB_KIND as SWAP_KIND
from agentcy_ray.ingest.swap.runner import SwapRunner
from agentcy_ray.ingest.syncs import JOB_KIND
from agentcy_ray.jobs.opening import open_queue
from agentcy_ray.jobs.records import Job, Progress
from agentcy_ray.jobs.worker import Beat, Handler
from agentcy_ray.retrieval.backed_index import BackedIndex
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.objects import ObjectStore, open_objects
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import open_redis

if TYPE_CHECKING:
    from agentcy_ray.context.kyma.writer import Sink
    from agentcy_ray.core.metrics import Metrics
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.retrieval.one_embedder import AnyEmbedders
    from agentcy_ray.stores.endpoints import Endpoints


class Ingest:
    """What an ingest worker is made of; open it with ``open_ingest``."""

    def __init__(
        self,
        db: Database,
        bell: Bell,
        runner: SyncRunner,
        retention: Retention,
        audit_retention: AuditRetention,
        pipelines: PipelinePublisher,
        migrations: MigrationRunner | None,
        backfills: Backfiller,
        swaps: SwapRunner,
        erasure: Erasure,
        resources: AsyncExitStack,
    ) -> None:
        self.db = db
        self.bell = bell
        self.runner = runner
        self.retention = retention
        self.audit_retention = audit_retention
        self.pipelines = pipelines
        self.migrations = migrations
        self.backfills = backfills
        self.swaps = swaps
        self.erasure = erasure
        self._resources = resources

    def handlers(self) -> Mapping[str, Handler]:
        """The kinds of job that it does, for a ``JobWorker``."""
        return {
            JOB_KIND: self._sync,
            PURGE_KIND: self.retention.purge,
            PRUNE_KIND: self.retention.prune,
            AUDIT_KIND: self._prune_audit,
            PIPELINE_KIND: self.pipelines.run,
            ERASE_KIND: self.erasure.run,
        }

    def long_handlers(self) -> Mapping[str, Handler]:
        """The kinds that take hours, for a worker beside the one of ``handlers``.

        Without both engines there is nothing to move, and no job of such a kind is taken.
        """
        return {} if self.migrations is None else {MIGRATION_KIND: self.migrations.handle}

    def embed_handlers(self) -> Mapping[str, Handler]:
        """Filling embedding spaces, for a worker of its own: others wait for these jobs."""
        return {BACKFILL_KIND: self.backfills.handle}

    def waiting_handlers(self) -> Mapping[str, Handler]:
        """The kinds that lead other jobs on, for a worker that does several at a time."""
        return {SWAP_KIND: self.swaps.handle}

    async def close(self) -> None:
        """Let go of every store."""
        await self._resources.aclose()

    async def _sync(self, job: Job, beat: Beat) -> None:
        run_id = UUID(job.payload["sync_run_id"])
        owner = job.worker_id or encode("job", job.id)
        await self.runner.run(job.org_id, run_id, owner, beat)

    async def _prune_audit(self, job: Job, beat: Beat) -> None:
        def told(gone: int) -> None:
            beat.check()
            beat.progress(Progress(done=gone, unit="entries", note="removing"))

        await self.audit_retention.prune(job.org_id, told)


async def open_ingest(
    settings: Settings,
    endpoints: Endpoints,
    embedders: AnyEmbedders,
    *,
    probe: Probe = no_probe,
    metrics: Metrics | None = None,
    sink: Sink | None = None,
    drivers: Mapping[Engine, Driver] | None = None,
) -> Ingest:
    """Open the stores that syncs need.

    Args:
        settings: the install's settings.
        endpoints: where its stores are.
        embedders: make the vectors of each space.
        probe: called at named points of a sync.
        metrics: of this process.
        sink: what writes to kyma in place of this process.
        drivers: of backfills, besides the coordinator.

    Raises:
        ConfigError: a secret is missing, or a connector of a package cannot be loaded.
        StoreUnavailableError: a store does not answer.
    """
    async with AsyncExitStack() as resources:
        db = await open_database(
            endpoints.database_url,
            pool_max=settings.database_pool_max,
            statement_cache=settings.database_statement_cache,
        )
        resources.push_async_callback(db.close)
        redis = await open_redis(endpoints.redis_url, settings.redis_prefix)
        resources.push_async_callback(redis.aclose)
        bell = Bell(redis)
        resources.push_async_callback(bell.aclose)
        router = (
            open_router(settings, endpoints, db, bell, metrics=metrics, sink=sink)
            if has_both(endpoints)
            else None
        )
        engine = router or open_engine(settings, endpoints, metrics=metrics, sink=sink)
        resources.push_async_callback(engine.close)
        vault = open_vault(settings)
        resources.push_async_callback(vault.aclose)
        backends = VectorBackends(settings)
        resources.push_async_callback(backends.close)
        objects, registry = open_objects(settings), builtin_registry(settings)
        stores = Stores(
            engine,
            BackedIndex(db, settings, backends),
            SpaceStore(db, settings),
            embedders,
            Chunkers(bundled_tokenizer(), settings),
            settings.embedding_model,
        )
        runner = SyncRunner(
            db,
            objects,
            stores,
            source_opener(SourceStore(db, vault, registry, bell), registry, objects, db),
            settings,
            bell=bell,
            probe=probe,
        )
        audit = AuditLog(db, bell)
        resources.push_async_callback(audit.close)
        audit_retention = AuditRetention(db, audit, settings.policy_audit_retention_days)
        retention = Retention(db, stores)
        queue = open_queue(settings, db, redis)
        resources.push_async_callback(queue.close)
        drops = FileDrops(db, objects, queue, settings.state_dir / "ingest" / "drops")
        pipelines = PipelinePublisher(db, objects, engine, runner, drops)
        migrations = None
        if router is not None:
            migrations = MigrationRunner(db, router, objects, settings, bell=bell)
        ledger = Ledger(db, settings, bell, metrics=metrics)
        resources.push_async_callback(ledger.close)
        backfills = Backfiller(
            db, objects, stores.spaces, embedders, stores.chunkers,
            IndexFinisher(db, stores.spaces, settings, backends), settings, drivers or {}, bell,
            ledger, backends, audit,
        )  # fmt: skip
        swaps = open_swap_runner(db, queue, stores.index, embedders, bell, settings, backends)
        erasure = Erasure(db, engine, objects, backends, audit, settings.state_dir)
        return Ingest(
            db, bell, runner, retention, audit_retention, pipelines, migrations, backfills, swaps,
            erasure, resources.pop_all(),
        )  # fmt: skip
    raise AssertionError("unreachable: the stack above swallows nothing")


def source_opener(
    store: SourceStore, registry: Registry, objects: ObjectStore, db: Database
) -> OpenSource:
    """Opens a session of its own for each sync: a sync outlives the idle time of shared ones."""

    @asynccontextmanager
    async def open_source(org_id: UUID, source_id: UUID) -> AsyncGenerator[OpenedSource]:
        source, connector, config = await store.open_config(org_id, source_id)
        context = replace(
            registry.context(org_id, source_id, objects, pins=source.egress),
            extra={SEGMENTS: SourceSegments(db, objects, org_id, source_id)},
        )
        with without_secrets(config):  # what leaves here is stored with the run
            context.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            session = await connector.open(config, context)
            try:
                yield OpenedSource(connector.spec, source.realm, session)
            finally:
                await session.close()

    return open_source
