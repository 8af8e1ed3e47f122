"""Which queue the settings choose."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.queue import JobQueue
from agentcy_ray.jobs.redis_queue import RedisQueue

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.postgres import Database


def open_queue(settings: Settings, db: Database, redis: Any) -> JobQueue:
    """The queue that ``JOB_QUEUE_BACKEND`` names: ``redis``, ``postgres`` or ``module:Class``.

    Raises:
        ConfigError: the name is none of these, or the class cannot be loaded.
    """
    shipped: dict[str, Callable[..., JobQueue]] = {"redis": RedisQueue, "postgres": PostgresQueue}
    name = settings.job_queue_backend
    make = shipped.get(name) or _load(name)
    return make(settings, db, redis)


def _load(name: str) -> Callable[..., JobQueue]:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(
            f"JOB_QUEUE_BACKEND={name!r} is not redis, postgres or module:Class; set one of them"
        )
    try:
        return cast("Callable[..., JobQueue]", getattr(import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"JOB_QUEUE_BACKEND={name!r} cannot be loaded ({error}); "
            "check that the module is installed and holds the class"
        ) from error
