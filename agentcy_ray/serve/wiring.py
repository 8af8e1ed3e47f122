"""Joining ``api`` and ``runtime``: services over the cluster's actors."""

from __future__ import annotations

from functools import partial

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from agentcy_ray.api.app import create_app
from agentcy_ray.api.bootstrap import first_boot
from agentcy_ray.api.services import Services, open_services
from agentcy_ray.context.migration.opening import has_both, open_context
from agentcy_ray.core import interpreter
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.migration.start import settle_engines
from agentcy_ray.runtime import haproxy, names
from agentcy_ray.runtime.cluster_config import load_cluster_config
from agentcy_ray.runtime.dispatch import RayDispatcher
from agentcy_ray.runtime.embedding_pools import EmbeddingPools
from agentcy_ray.runtime.presence import require_present
from agentcy_ray.runtime.served_models import ServedModels
from agentcy_ray.serve import http_protocol
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.key_check import check_keys
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.resolve import resolve_endpoints
from agentcy_ray.stores.secrets import resolve_secrets

_log = structlog.get_logger(__name__)


def api_application() -> ASGIApp:
    """The API of a replica; its services are opened when Serve starts it.

    Serve matches each request against the routes of an application that shows them, to name its
    own metrics, before the application matches them again; this one shows none, and counts itself.
    """
    http_protocol.install()
    settings = Settings.load()
    application = create_app(
        settings,
        lambda: open_platform(settings),
        peer_header=haproxy.PEER_HEADER if haproxy.is_ingress() else None,
    )

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await application(scope, receive, send)

    return answer


async def open_platform(settings: Settings) -> Services:
    """The services of a replica: tools on session hosts, embedding on the pool."""
    config = load_cluster_config(settings.agentcy_cluster_config)
    part, metrics = config.session_hosts, Metrics()
    models = ServedModels(config.models)
    pools = EmbeddingPools(settings, names.embedders(config), metrics, models)
    dispatcher = RayDispatcher(
        names.session_hosts(config), part.batch_max, scales=part.max > part.min, metrics=metrics
    )
    services = await open_services(
        settings,
        await resolve_endpoints(settings),
        dispatcher=dispatcher,
        embedder=pools.default,
        embedders=pools,
        check_source=dispatcher.check_source,
        check_cluster=partial(require_present, names.shared_actors(config)),
        local_models=models,
        metrics=metrics,
    )
    interpreter.settle()
    return services


async def prepare_stores(settings: Settings, endpoints: Endpoints) -> None:
    """Bring schema and first rows up to this version; any number of processes may do so at once."""
    await migrate(endpoints.database_url)
    db = await open_database(endpoints.database_url, pool_max=2)
    try:
        await first_boot(db, settings, resolve_secrets(settings).admin_password)
        keys = await check_keys(db, settings)
        if not keys.ok:  # what does not need them works, so this forbids no start
            _log.error("stored_secrets_locked", found=keys.found, remedy=keys.remedy)
        await settle_engines(db, settings, both=has_both(endpoints))
        engine = open_context(settings, endpoints, db)
        try:
            await engine.prepare()
        finally:
            await engine.close()
    finally:
        await db.close()
