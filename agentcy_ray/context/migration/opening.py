"""The engine of an install: one, or both behind a router while organisations move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentcy_ray.context.advanced.arriving import Arriving
from agentcy_ray.context.basic import BasicEngine
from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.basic.leaving import Leaving
from agentcy_ray.context.factory import open_advanced, open_engine
from agentcy_ray.context.migration.router import EngineRouter, Engines

if TYPE_CHECKING:
    from agentcy_ray.context.engine import ContextEngine
    from agentcy_ray.context.kyma.writer import Sink
    from agentcy_ray.core.metrics import Metrics
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.bell import Bell
    from agentcy_ray.stores.endpoints import Endpoints
    from agentcy_ray.stores.postgres import Database


def has_both(endpoints: Endpoints) -> bool:
    """Whether an install has a Basic and an Advanced engine."""
    return bool(endpoints.neo4j_uri and endpoints.kyma_url)


def open_context(
    settings: Settings,
    endpoints: Endpoints,
    db: Database,
    bell: Bell | None = None,
    *,
    metrics: Metrics | None = None,
    sink: Sink | None = None,
) -> ContextEngine:
    """The engine of every organisation; nothing is connected to before its first call.

    With one engine alone there is nothing to choose, and nobody is asked.

    Raises:
        ConfigError: an address is malformed.
    """
    if has_both(endpoints):
        return open_router(settings, endpoints, db, bell, metrics=metrics, sink=sink)
    return open_engine(settings, endpoints, metrics=metrics, sink=sink)


def open_router(
    settings: Settings,
    endpoints: Endpoints,
    db: Database,
    bell: Bell | None = None,
    *,
    metrics: Metrics | None = None,
    sink: Sink | None = None,
) -> EngineRouter:
    """Both engines; each organisation is answered by its own.

    Raises:
        ConfigError: an address is malformed.
    """
    bolt = Bolt.open(endpoints)
    basic = BasicEngine(
        bolt, embedded=settings.neo4j_uri is None, batch_rows=settings.pipeline_batch_size
    )
    advanced = open_advanced(settings, endpoints, metrics=metrics, sink=sink)
    engines = Engines(basic, advanced, Leaving(bolt), Arriving(advanced.store))
    return EngineRouter(engines, db, bell, default=settings.context_engine)
