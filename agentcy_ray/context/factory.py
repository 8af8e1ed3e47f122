"""The engine that the settings ask for."""

from __future__ import annotations

from agentcy_ray.context.basic import BasicEngine
from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.endpoints import Endpoints


def open_engine(settings: Settings, endpoints: Endpoints) -> ContextEngine:
    """An engine on the endpoints; nothing is connected to before its first call.

    Raises:
        ConfigError: the engine asked for is not available, or its address is malformed.
    """
    if settings.context_engine != "basic":
        raise ConfigError(
            "this version has no Advanced engine yet; set CONTEXT_ENGINE=basic or leave it unset"
        )
    return BasicEngine(
        Bolt.open(endpoints),
        embedded=settings.neo4j_uri is None,
        batch_rows=settings.pipeline_batch_size,
    )
