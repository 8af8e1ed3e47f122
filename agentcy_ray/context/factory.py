"""The engine that the settings ask for."""

from __future__ import annotations

from pydantic import SecretStr

from agentcy_ray.context.advanced import AdvancedEngine
from agentcy_ray.context.advanced.databases import Databases, first_organisation
from agentcy_ray.context.advanced.planners import PLANNERS
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.basic import BasicEngine
from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.context.kyma.address import KymaAddress
from agentcy_ray.context.kyma.client import KymaClient
from agentcy_ray.context.kyma.writer import Sink
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.egress import Egress
from agentcy_ray.stores.endpoints import Endpoints


def open_engine(
    settings: Settings,
    endpoints: Endpoints,
    *,
    metrics: Metrics | None = None,
    sink: Sink | None = None,
) -> ContextEngine:
    """An engine on the endpoints; nothing is connected to before its first call.

    Args:
        settings: the install's settings.
        endpoints: where its stores are.
        metrics: of this process, where writing to kyma is counted.
        sink: what writes to kyma in place of this process.

    Raises:
        ConfigError: its address is malformed.
    """
    if settings.context_engine == "advanced":
        return open_advanced(settings, endpoints, metrics=metrics, sink=sink)
    return BasicEngine(
        Bolt.open(endpoints),
        embedded=settings.neo4j_uri is None,
        batch_rows=settings.pipeline_batch_size,
    )


def open_advanced(
    settings: Settings,
    endpoints: Endpoints,
    *,
    metrics: Metrics | None = None,
    sink: Sink | None = None,
) -> AdvancedEngine:
    """The Advanced engine on the endpoints, whatever engine the settings name.

    Raises:
        ConfigError: KYMA_BASE_URL or KYMA_FLIGHT_URL is malformed.
    """
    embedded = settings.kyma_base_url is None
    databases = Databases(settings.kyma_database, first_organisation(endpoints.database_url))
    return AdvancedEngine(
        Store(open_kyma(settings, endpoints, metrics=metrics, sink=sink), databases),
        PLANNERS,
        embedded=embedded,
        own_bucket=not embedded or settings.s3_bucket is not None,
    )


def open_kyma(
    settings: Settings,
    endpoints: Endpoints,
    *,
    metrics: Metrics | None = None,
    sink: Sink | None = None,
) -> KymaClient:
    """A client of the kyma that the endpoints name.

    Raises:
        ConfigError: KYMA_BASE_URL or KYMA_FLIGHT_URL is malformed.
    """
    address = KymaAddress(
        base_url=endpoints.kyma_url,
        flight_url=endpoints.kyma_flight_url,
        token=SecretStr(endpoints.kyma_token) if endpoints.kyma_token else None,
        prefix=settings.kyma_headers,
    )
    return KymaClient.open(
        address, slice_bytes=settings.kyma_slice_bytes,
        max_in_flight=settings.kyma_max_in_flight, metrics=metrics, sink=sink,
        guard=Egress(settings).guard("operator"),
    )  # fmt: skip
