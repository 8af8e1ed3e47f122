"""Everything that a replica works with, opened once and closed together.

The same services carry the API and the executor of runs: which of them a process uses is decided by
who opens them. What needs a cluster (session hosts, the embedding pool) is handed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

from starlette.requests import Request

from agentcy_ray.agent.context_build import ContextBuilder
from agentcy_ray.agent.conversations import ConversationStore
from agentcy_ray.agent.dispatch import Dispatcher
from agentcy_ray.agent.executor import Executor
from agentcy_ray.agent.gates import Gates, open_gates
from agentcy_ray.agent.loop import AgentLoop, LoopParts
from agentcy_ray.agent.metatools import META_TOOLS
from agentcy_ray.agent.profiles import AgentStore
from agentcy_ray.agent.runlog import RunLog
from agentcy_ray.agent.runs import RunStore
from agentcy_ray.agent.spending import Spending, open_spending
from agentcy_ray.agent.turns import TurnStore
from agentcy_ray.api.access import Access, open_access
from agentcy_ray.api.pagination import Cursors
from agentcy_ray.api.realms import Realms
from agentcy_ray.api.upkeep import Upkeep
from agentcy_ray.connectors.registry import Registry, builtin_registry
from agentcy_ray.connectors.source_records import Source
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.context.migration.opening import has_both, open_context
from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.errors import AgentcyError, InvalidError, NotFoundError
from agentcy_ray.core.logs import set_up_logs
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.identity.standing import StreamWatch
from agentcy_ray.ingest.continuous.file_drop import FileDrops
from agentcy_ray.ingest.continuous.intake import Intake
from agentcy_ray.ingest.migration.requests import MigrationRequests
from agentcy_ray.ingest.retention import purge_job
from agentcy_ray.ingest.swap.desk import EmbeddingDesk
from agentcy_ray.ingest.swap.opening import open_desk
from agentcy_ray.ingest.syncs import SyncRuns
from agentcy_ray.jobs.opening import open_queue
from agentcy_ray.jobs.queue import JobQueue
from agentcy_ray.jobs.records import Job
from agentcy_ray.llm.local import LocalModels
from agentcy_ray.llm.registry import Models
from agentcy_ray.retrieval.embedder import MeteredEmbedder
from agentcy_ray.retrieval.one_embedder import AnyEmbedders, OneEmbedder
from agentcy_ray.retrieval.query_sample import QuerySample
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.objects import ObjectStore, open_objects
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import RedisStore, open_redis
from agentcy_ray.stores.secrets import Secrets, resolve_secrets
from agentcy_ray.stores.shared_metrics import SharedMetrics

CheckSource = Callable[[UUID, UUID], Awaitable[None]]
"""(org, source) → reaches the source on a session host; raises ``SourceConfigError``."""
Probe = Callable[[], Awaitable[object]]
"""Reaches a part; raises a typed error that says why it cannot."""
CHECK_SECS = 3.0
HEALTH_PREFIX = "health/"
"""Nothing lies there; listing it asks the store for an answer."""


@dataclass(frozen=True)
class Services:
    """The rooms of the house, with their doors open."""

    settings: Settings
    db: Database
    redis: RedisStore
    bell: Bell
    engine: ContextEngine
    objects: ObjectStore
    registry: Registry
    sources: SourceStore
    check_source: CheckSource
    check_cluster: Probe | None
    queue: JobQueue
    syncs: SyncRuns
    migrations: MigrationRequests
    intake: Intake
    drops: FileDrops
    upkeep: Upkeep
    spaces: SpaceStore
    embedders: AnyEmbedders
    search: SearchService
    embedding: EmbeddingDesk
    gates: Gates
    agents: AgentStore
    conversations: ConversationStore
    runs: RunStore
    run_log: RunLog
    models: Models
    spending: Spending
    access: Access
    cursors: Cursors
    realms: Realms
    metrics: Metrics
    shared_metrics: SharedMetrics
    closing: AsyncExitStack

    async def check(self, *names: str) -> dict[str, str]:
        """Part → ``ok``, or why it does not answer; bounded in time. All parts when none is named.

        ``ray`` is there when this process belongs to a cluster; ``model`` is asked for its set-up
        only, for a call would cost money.
        """
        parts: dict[str, Probe] = {
            "database": self.db.ping,
            "redis": self.redis.ping,
            "context_engine": self.engine.ping,
            "object_store": partial(self.objects.list, HEALTH_PREFIX),
            "model": self._check_model,
        }
        if self.models.local_listed:
            parts["local_models"] = self.models.require_local
        if self.check_cluster is not None:
            parts["ray"] = self.check_cluster
        wanted = names or tuple(parts)
        states = await asyncio.gather(*(_state(parts[name]()) for name in wanted))
        return dict(zip(wanted, states, strict=True))

    async def _check_model(self) -> None:
        self.models.resolve(self.models.default_reference())

    async def allowed_realms(
        self, principal: Principal, asked: list[str] | tuple[str, ...] | None
    ) -> tuple[str, ...] | None:
        """The asked realms, cut to what the caller may see; None = all of them.

        Raises:
            InvalidError: a realm does not exist; the message lists those that do.
        """
        if asked:
            names = await self.realms.names(principal.org_id)
            unknown = sorted(set(asked) - names)
            if unknown:
                raise InvalidError(
                    f"there is no realm {unknown[0]!r}; there are: {', '.join(sorted(names))}",
                    realms=unknown,
                )
        return principal.bind_realms(tuple(asked) if asked else None)

    async def visible_source(self, principal: Principal, source_id: UUID) -> Source:
        """A source in the caller's realms.

        Raises:
            NotFoundError: absent, another organisation's, or in a realm that is not the caller's.
        """
        source = await self.sources.get(principal.org_id, source_id)
        if not principal.bind_realms((source.realm,)):
            raise NotFoundError("no such source; `agentcy sources list` shows those there are")
        return source

    def executor(self, concurrency: int) -> Executor:
        """An executor of runs over these services; start it with ``run``."""
        loop = AgentLoop(
            LoopParts(
                settings=self.settings,
                runs=self.runs,
                log=self.run_log,
                turns=TurnStore(self.db, self.run_log),
                agents=self.agents,
                models=self.models,
                context=ContextBuilder(self.engine, self.search, self.conversations),
                tools=self.gates.meta,
                offers=META_TOOLS,
                approvals=self.gates.approvals,
                spending=self.spending,
            )
        )
        return Executor(
            self.runs, loop, self.bell, concurrency=concurrency, metrics=self.metrics,
            standing=self.access.standing.of_principals,
        )  # fmt: skip

    async def delete_and_purge(self, principal: Principal, source: Source) -> Job:
        """Delete a source; the job that hides its entities is there exactly if it is deleted.

        Raises:
            NotFoundError, ConflictError: as ``SourceStore.delete``.
        """
        jobs: list[Job] = []

        async def ask(connection: Any) -> None:
            wanted = purge_job(principal.org_id, source.id, source.retention_days)
            jobs.append(await self.queue.store.insert(connection, wanted))

        await self.sources.delete(principal, source.id, along=ask)
        await self.queue.announce(jobs[0])
        return jobs[0]

    async def close(self) -> None:
        """Close what was opened, the last one first."""
        await self.closing.aclose()


async def open_services(
    settings: Settings,
    endpoints: Endpoints,
    *,
    dispatcher: Dispatcher,
    embedder: MeteredEmbedder,
    check_source: CheckSource,
    check_cluster: Probe | None = None,
    metrics: Metrics | None = None,
    embedders: AnyEmbedders | None = None,
    local_models: LocalModels | None = None,
) -> Services:
    """Open everything; what was opened is closed again when a later part fails.

    Args:
        settings: the install's settings.
        endpoints: where its stores are.
        dispatcher: carries tool calls to the sessions of sources.
        embedder: of the default model; finds tools by meaning.
        check_source: reaches a source where its session is.
        check_cluster: reaches what the cluster runs; None without a cluster.
        metrics: of this process, where others count too.
        embedders: of every model that a space may have been made by; None = the default alone.
        local_models: models that the cluster serves itself.

    Raises:
        ConfigError, StoreUnavailableError: a store cannot be used; the message says which.
    """
    set_up_logs(settings)
    async with AsyncExitStack() as opening:
        db = await open_database(
            endpoints.database_url,
            pool_max=settings.database_pool_max,
            statement_cache=settings.database_statement_cache,
        )
        opening.push_async_callback(db.close)
        redis = await open_redis(endpoints.redis_url, settings.redis_prefix)
        opening.push_async_callback(redis.aclose)
        bell = Bell(redis)
        opening.push_async_callback(bell.aclose)
        metrics = metrics or Metrics()
        engine = open_context(settings, endpoints, db, bell, metrics=metrics)
        opening.push_async_callback(engine.close)
        services = _assemble(
            settings, resolve_secrets(settings), db, redis, bell, engine,
            dispatcher, embedder, embedders or OneEmbedder(embedder), check_source,
            check_cluster, metrics, local_models, has_both(endpoints), opening,
        )  # fmt: skip
        access = services.access
        for forget in (access.authenticator.forget, access.open_streams.end):
            await opening.enter_async_context(access.revocations.followed_by(forget))
        opening.push_async_callback(access.streams.close)
        if access.oidc is not None:
            opening.push_async_callback(access.oidc.aclose)
        opening.push_async_callback(dispatcher.close)
        watch = StreamWatch(access.open_streams, access.standing, SystemClock())
        for work in (services.shared_metrics.run, watch.run):
            opening.push_async_callback(_beside(work))
        return replace(services, closing=opening.pop_all())


def _assemble(
    settings: Settings,
    secrets: Secrets,
    db: Database,
    redis: RedisStore,
    bell: Bell,
    engine: ContextEngine,
    dispatcher: Dispatcher,
    embedder: MeteredEmbedder,
    embedders: AnyEmbedders,
    check_source: CheckSource,
    check_cluster: Probe | None,
    metrics: Metrics,
    local_models: LocalModels | None,
    both_engines: bool,
    opening: AsyncExitStack,
) -> Services:
    metrics.sample(metrics.db_pool_in_use, lambda: db.in_use)
    registry = builtin_registry(settings)
    vault = open_vault(settings)
    opening.push_async_callback(vault.aclose)
    sources = SourceStore(db, vault, registry, bell)
    queue = open_queue(settings, db, redis)
    opening.push_async_callback(queue.close)
    sample = QuerySample(db, settings)
    opening.push_async_callback(sample.close)
    spaces = SpaceStore(db, settings)
    search = SearchService(db, embedders, spaces, settings, bell=bell, sample=sample)
    opening.push_async_callback(search.close)
    objects = open_objects(settings)
    gates = open_gates(
        db,
        bell,
        settings,
        sources=sources,
        dispatcher=dispatcher,
        search=search,
        engine=engine,
        objects=objects,
        embedder=embedder,
        vault=vault,
        metrics=metrics,
        secret_values=(secrets.jwt_secret, secrets.admin_password),
    )
    opening.push_async_callback(gates.close)
    intake = Intake(settings, db, redis, objects, queue, vault)
    opening.push_async_callback(intake.close)
    models = Models(settings, metrics, local=local_models)
    spending = open_spending(db, settings, bell, models, gates, metrics)
    opening.push_async_callback(spending.ledger.close)
    run_log = RunLog(db, bell, settings)
    return Services(
        settings=settings,
        db=db,
        redis=redis,
        bell=bell,
        engine=engine,
        objects=objects,
        registry=registry,
        sources=sources,
        check_source=check_source,
        check_cluster=check_cluster,
        queue=queue,
        syncs=SyncRuns(db, queue),
        migrations=MigrationRequests(db, queue, both=both_engines),
        intake=intake,
        drops=FileDrops(db, objects, queue, settings.state_dir / "ingest" / "drops"),
        upkeep=Upkeep(db, queue, settings, reservations=spending.ledger.recovery),
        spaces=spaces,
        embedders=embedders,
        search=search,
        embedding=open_desk(db, queue, embedders, search.routes, bell, settings),
        gates=gates,
        agents=AgentStore(db),
        conversations=ConversationStore(db),
        runs=RunStore(db, bell, run_log),
        run_log=run_log,
        models=models,
        spending=spending,
        access=open_access(db, redis, bell, settings, secrets, SystemClock()),
        cursors=Cursors(secrets.jwt_secret, secrets.jwt_secret_previous),
        realms=Realms(db),
        metrics=metrics,
        shared_metrics=SharedMetrics(redis, metrics),
        closing=opening,
    )


def _beside(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> Probe:
    """Begin what is done beside requests until the event is set; gives what ends it."""
    stop = asyncio.Event()
    task = asyncio.create_task(work(stop))

    async def end() -> None:
        stop.set()
        await task

    return end


def services_of(request: Request) -> Services:
    """The services of the application that a request came to."""
    services: Services = request.app.state.services
    return services


async def _state(part: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(part, CHECK_SECS)
    except AgentcyError as error:
        return error.message
    except TimeoutError:
        return f"no answer within {CHECK_SECS:g} s"
    return "ok"
