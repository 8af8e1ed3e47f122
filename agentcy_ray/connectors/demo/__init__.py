"""The ``demo`` connector: a made-up company over all realms, with one tool of each effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from agentcy_ray.connectors.base import ConnectorSpec, Session, SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, read_config
from agentcy_ray.connectors.demo.company import EDGE_TYPES, KINDS, Company
from agentcy_ray.connectors.demo.session import DemoSession
from agentcy_ray.connectors.demo.tools import TOOLS
from agentcy_ray.core.tools import ToolSpec


class DemoConfig(ConnectorConfig):
    """Config of a ``demo`` source (product specification, §16)."""

    seed: int = Field(1, ge=0, le=2**32, description="another seed makes another company")
    entities: int = Field(400, ge=1, le=10_000_000, description="number of entities")
    tool_latency_ms: float = Field(
        0, ge=0, le=60_000, description="how long each tool call takes, milliseconds"
    )


class DemoConnector:
    """For first steps, tests and benchmarks: needs no outside system, every run is the same."""

    spec = ConnectorSpec(
        name="demo",
        title="Demo company",
        description="A made-up company: teams, people, services, customers, designs, documents.",
        version="1",
        config_model=DemoConfig,
        default_realm="default",
        labels=tuple(kind.label for kind in KINDS),
        edge_types=EDGE_TYPES,
        incremental=True,
        reports_deletions=True,  # a changed company is read in full
    )

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> DemoConfig:
        """Read a config.

        Raises:
            SourceConfigError: kind ``config``.
        """
        return read_config(DemoConfig, config)

    def tools(self, config: Any) -> list[ToolSpec]:
        """One tool of each effect."""
        return list(TOOLS)

    async def open(self, config: Any, context: SessionContext) -> Session:
        """A session; what its tools did is kept in the work folder."""
        company = Company(config.seed, config.entities)
        return await DemoSession.open(company, context.work_dir, config.tool_latency_ms / 1000)


__all__ = ["DemoConfig", "DemoConnector"]
