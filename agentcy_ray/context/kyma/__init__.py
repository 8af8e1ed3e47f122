"""The client of a kyma: reads over Flight or HTTP, writes as NDJSON slices."""

from agentcy_ray.context.kyma.address import KymaAddress
from agentcy_ray.context.kyma.client import KymaClient, NativeAnswer
from agentcy_ray.context.kyma.http import Budgets, Patience
from agentcy_ray.context.kyma.probe import Probe
from agentcy_ray.context.kyma.writer import Ingested, RejectedRow, Sink

__all__ = [
    "Budgets",
    "Ingested",
    "KymaAddress",
    "KymaClient",
    "NativeAnswer",
    "Patience",
    "Probe",
    "RejectedRow",
    "Sink",
]
