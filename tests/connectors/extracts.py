"""Opening a connector on a config and reading all that it yields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentcy_ray.connectors.base import Connector, Session, SessionContext
from tests.conformance.connector_suite import Extract
from tests.egress import loopback_guard


def context(folder: Path, objects: Any = None) -> SessionContext:
    """A context whose one file root is ``folder``."""
    work = folder.parent / f"{folder.name}-work"
    work.mkdir(exist_ok=True)
    return SessionContext(
        "0" * 32, work, file_roots=(folder,), objects=objects, guard=loopback_guard()
    )


async def session_on(
    connector: Connector, config: Mapping[str, Any], surroundings: SessionContext
) -> Session:
    return await connector.open(connector.validate(config, surroundings), surroundings)


async def extract(
    connector: Connector,
    config: Mapping[str, Any],
    surroundings: SessionContext,
    cursors: Mapping[str, Any] | None = None,
) -> Extract:
    session = await session_on(connector, config, surroundings)
    full = cursors is None
    return Extract([item async for item in session.extract(cursors or {}, full=full)])
