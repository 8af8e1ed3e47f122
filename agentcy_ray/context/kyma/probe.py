"""Finding out what a kyma can do: stages of it differ, and it does not say all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentcy_ray.context.kyma.flight import FlightDoor
from agentcy_ray.context.kyma.http import Budgets, KymaHttp
from agentcy_ray.core.errors import EngineError, EngineRefusedError, MissingDataError

_CYPHER = "MATCH (a)-[r]->(b) RETURN a.id LIMIT 1"
_SPEAKS_CYPHER = {"cypher_parse_error", "graph_resolution_error"}
_BUDGETS = Budgets(timeout_ms=5_000)


@dataclass(frozen=True)
class Probe:
    """What was found. ``cypher`` None: it holds no data yet, so it could not say."""

    version: str
    mode: str
    capabilities: dict[str, Any] = field(default_factory=dict)
    cypher: bool | None = None
    flight: bool = False

    @property
    def settled(self) -> bool:
        """Whether nothing is left to ask."""
        return self.cypher is not None


async def probe(http: KymaHttp, door: FlightDoor, database: str) -> Probe:
    """Ask a kyma what it is and speaks; about Cypher, ``database`` is asked.

    Raises:
        EngineRefusedError: it refuses the token.
        StoreUnavailableError, EngineBusyError, EngineError: it is away, sheds load, is no kyma.
    """
    health = await http.get("/health")
    capabilities = await _capabilities(http)
    return Probe(
        version=str(health.get("version", "")),
        mode=str(capabilities.get("mode", "unknown")),
        capabilities=capabilities,
        cypher=await _cypher(http, database),
        flight=await door.present(),
    )


async def _capabilities(http: KymaHttp) -> dict[str, Any]:
    """The record of capabilities; older stages have no such route, or answer with a page."""
    try:
        return await http.get("/v1/capabilities")
    except EngineRefusedError as error:
        if error.details.get("status") in {401, 403}:
            raise
    except EngineError as error:
        if error.transient:
            raise
    return {}


async def _cypher(http: KymaHttp, database: str) -> bool | None:
    try:
        await http.query(database, _CYPHER, language="cypher", budgets=_BUDGETS)
    except MissingDataError:
        return None
    except EngineRefusedError as error:
        if error.details.get("status") in {401, 403}:
            raise
        return error.details.get("engine_code") in _SPEAKS_CYPHER
    return True
