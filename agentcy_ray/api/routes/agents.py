"""Agents: list, make, change."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from agentcy_ray.agent.profiles import AgentProfile, AgentSettings, AgentStore, NewAgent
from agentcy_ray.api.idempotency import once
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.ids import decode

router = APIRouter(prefix="/agents", tags=["agents"])
Reader = Annotated[Allowed, permit("agent.read")]
Writer = Annotated[Allowed, permit("agent.write")]


@router.get("", response_model=Page[AgentProfile])
async def list_agents(
    caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Agents, newest first."""
    signer = services_of(request).cursors
    position = signer.decode(cursor)
    rows = await _store(request).list(
        caller.org_id, limit=limit + 1, before=UUID(position) if position else None
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.post("", status_code=201, response_model=AgentProfile)
async def create_agent(body: NewAgent, caller: Writer, request: Request) -> Response:
    """Make an agent."""
    return await once(request, caller, lambda: _store(request).create(caller.org_id, body), 201)


@router.get("/{agent_id}")
async def read_agent(agent_id: str, caller: Reader, request: Request) -> AgentProfile:
    """One agent."""
    return await _store(request).get(caller.org_id, decode("agt", agent_id))


@router.patch("/{agent_id}")
async def change_agent(
    agent_id: str, body: dict[str, Any], caller: Writer, request: Request
) -> AgentProfile:
    """Change fields; absent ones stay."""
    try:
        return await _store(request).update(caller.org_id, decode("agt", agent_id), body)
    except ValidationError as error:
        faults = [
            {"loc": ".".join(map(str, fault["loc"])), "message": fault["msg"]}
            for fault in error.errors(include_input=False)
        ]
        allowed = ", ".join(AgentSettings.model_fields)
        raise InvalidError(f"fields are {allowed}; see details", errors=faults) from None


def _store(request: Request) -> AgentStore:
    store: AgentStore = services_of(request).agents
    return store
