"""Which stores the settings give by URL, and which are started embedded, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentcy_ray.stores.embedded import ensure_embedded
from agentcy_ray.stores.endpoints import Endpoints

if TYPE_CHECKING:
    from pydantic import SecretStr

    from agentcy_ray.core.settings import Settings


def embedded_servers(settings: Settings) -> frozenset[str]:
    """Names of the servers that these settings leave to us: those without a URL of their own.

    The server of the engine that the settings do not name is among them when it has data here:
    organisations may still be on it, or have moved to it.
    """
    names: set[str] = set()
    if settings.database_url is None:
        names.add("postgres")
    if settings.redis_url is None:
        names.add("redis")
    if settings.neo4j_uri is None and _is_used(settings, "basic", "graph"):
        names.add("graph")
    if settings.kyma_base_url is None and _is_used(settings, "advanced", "kyma"):
        names.add("kyma")
    return frozenset(names)


async def resolve_endpoints(settings: Settings) -> Endpoints:
    """The endpoints to use, after starting embedded servers for those that have no URL.

    URLs are taken exactly as given, TLS options included (``sslmode``, ``rediss://``,
    ``neo4j+s://``). Nothing is connected to here; `agentcy_ray.stores.checks` does that.

    Raises:
        ConfigError, StoreUnavailableError, StorageFullError: an embedded server did not start.
    """
    want = embedded_servers(settings)
    ours = await ensure_embedded(settings, want) if want else Endpoints()
    external_graph = settings.neo4j_uri is not None
    external_kyma = settings.kyma_base_url is not None
    password = _reveal(settings.neo4j_password)
    return Endpoints(
        database_url=_reveal(settings.database_url) or ours.database_url,
        redis_url=_reveal(settings.redis_url) or ours.redis_url,
        neo4j_uri=(settings.neo4j_uri or "") if external_graph else ours.neo4j_uri,
        neo4j_user=settings.neo4j_user if external_graph else ours.neo4j_user,
        neo4j_password=password if external_graph else ours.neo4j_password,
        neo4j_database=settings.neo4j_database if external_graph else ours.neo4j_database,
        neo4j_reader_user=settings.neo4j_user if external_graph else ours.neo4j_reader_user,
        neo4j_reader_password=password if external_graph else ours.neo4j_reader_password,
        kyma_url=(settings.kyma_base_url or "") if external_kyma else ours.kyma_url,
        kyma_flight_url=settings.kyma_flight_url if external_kyma else ours.kyma_flight_url,
        kyma_token=_reveal(settings.kyma_token) if external_kyma else ours.kyma_token,
    )


def _is_used(settings: Settings, engine: str, server: str) -> bool:
    return settings.context_engine == engine or (settings.state_dir / server).is_dir()


def _reveal(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
