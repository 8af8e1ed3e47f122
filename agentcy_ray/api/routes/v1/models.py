"""``GET /v1/models``: who can be asked. Each entry has the fields of both vendors."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel

from agentcy_ray.agent.profiles import AgentProfile
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.routes.v1.asked import AGENT, chosen
from agentcy_ray.api.services import Services, services_of
from agentcy_ray.core.clock import rfc3339

router = APIRouter(tags=["v1"])
Invoker = Annotated[Allowed, permit("llm.invoke")]
PAGE = 200
_UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)
"""When a model was made that tells nothing of it."""


class ModelEntry(BaseModel):
    """A model, or an agent."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    type: Literal["model"] = "model"
    display_name: str
    created_at: str


class ModelList(BaseModel):
    """All of them; the list has one page."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
    has_more: Literal[False] = False
    first_id: str | None
    last_id: str | None


@router.get("/models")
async def list_models(caller: Invoker, request: Request) -> ModelList:
    """Agents, then the models that are set up, those that this cluster serves among them, and those
    that make vectors."""
    services = services_of(request)
    entries = [_of_agent(agent) async for agent in _agents(services, caller.org_id)]
    references = [*services.models.references(), *await _embedders(services, caller.org_id)]
    entries += [_of_model(reference) for reference in dict.fromkeys(references)]
    return ModelList(data=entries, first_id=entries[0].id, last_id=entries[-1].id)


@router.get("/models/{model:path}")
async def read_model(model: str, caller: Invoker, request: Request) -> ModelEntry:
    """One of them; also a model of a provider that is set up and that the list does not name."""
    services = services_of(request)
    if model in await _embedders(services, caller.org_id):
        return _of_model(model)
    found: Any = await chosen(services, caller, model)
    return _of_agent(found) if isinstance(found, AgentProfile) else _of_model(model)


async def _embedders(services: Services, org_id: UUID) -> list[str]:
    """References of the models that make vectors: the default, those of the cluster, and those of
    the organisation's spaces."""
    served = [f"vllm:{model.name}" for model in services.models.local_models("embed")]
    spaces = [space.embedder for space in await services.spaces.list(org_id)]
    return [services.settings.embedding_model, *served, *spaces]


async def _agents(services: Services, org_id: UUID) -> AsyncGenerator[AgentProfile]:
    before: UUID | None = None
    while True:
        page = await services.agents.list(org_id, limit=PAGE, before=before)
        for agent in page:
            yield agent
        if len(page) < PAGE:
            return
        before = page[-1].id


def _of_agent(agent: AgentProfile) -> ModelEntry:
    return _entry(
        f"{AGENT}{agent.name}", "agentcy", agent.description or agent.name, agent.created_at
    )


def _of_model(reference: str) -> ModelEntry:
    provider, _, name = reference.partition(":")
    return _entry(reference, provider, name, _UNKNOWN)


def _entry(id_: str, owner: str, name: str, made: datetime) -> ModelEntry:
    return ModelEntry(
        id=id_,
        created=int(made.timestamp()),
        owned_by=owner,
        display_name=name,
        created_at=rfc3339(made),
    )
