"""What an organisation has set about itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.policy.security import SecurityChange, SecuritySettings, SecurityStore

router = APIRouter(prefix="/settings", tags=["settings"])
Reader = Annotated[Allowed, permit("org.read")]
Writer = Annotated[Allowed, permit("org.write")]
EmbeddingManager = Annotated[Allowed, permit("embedding.manage")]


class RetrievalSettings(BaseModel):
    """How searches are answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dual_space_search: bool
    """Every search asks the active space and the one beside it, and fuses both by rank."""


@router.get("/security")
async def read_security(caller: Reader, request: Request) -> SecuritySettings:
    """When a call waits for a person, how long, and whom it may wait for."""
    return await _store(request).get(caller.org_id)


@router.post("/security")
async def change_security(
    body: SecurityChange, caller: Writer, request: Request
) -> SecuritySettings:
    """Change the fields that are given; approvals that wait already keep their time."""
    return await _store(request).change(caller.org_id, body)


@router.get("/retrieval")
async def read_retrieval(caller: Reader, request: Request) -> RetrievalSettings:
    """Whether searches ask two spaces while there are two."""
    routes = services_of(request).embedding.routes
    return RetrievalSettings(dual_space_search=await routes.both(caller.org_id))


@router.post("/retrieval")
async def change_retrieval(
    body: RetrievalSettings, caller: EmbeddingManager, request: Request
) -> RetrievalSettings:
    """Change it; every process goes by it within a second."""
    routes = services_of(request).embedding.routes
    await routes.ask_both(caller.org_id, body.dual_space_search)
    return body


def _store(request: Request) -> SecurityStore:
    services = services_of(request)
    return SecurityStore(services.db, services.bell, services.settings.approval_timeout_secs)
