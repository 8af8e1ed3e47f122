from pathlib import Path

from agentcy_ray.connectors.demo import DemoConnector
from agentcy_ray.core.tools import Effect
from tests.conformance.connector_suite import ConnectorCase, Prepared


def prepare(folder: Path) -> Prepared:
    config = {"seed": 7, "entities": 120, "tool_latency_ms": 0}
    return Prepared(config, reads=[("lookup", {"id": "service-3"})])


CASES = [
    ConnectorCase(
        "demo",
        DemoConnector,
        prepare,
        effects={
            "lookup": Effect.READ,
            "restart_service": Effect.WRITE,
            "delete_record": Effect.DESTRUCTIVE,
        },
    )
]
