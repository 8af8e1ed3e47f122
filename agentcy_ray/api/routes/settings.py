"""What an organisation has set about itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request

from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.policy.security import SecurityChange, SecuritySettings, SecurityStore

router = APIRouter(prefix="/settings", tags=["settings"])
Reader = Annotated[Allowed, permit("org.read")]
Writer = Annotated[Allowed, permit("org.write")]


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


def _store(request: Request) -> SecurityStore:
    services = services_of(request)
    return SecurityStore(services.db, services.bell, services.settings.approval_timeout_secs)
