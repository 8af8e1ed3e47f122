"""Requests for access: asked by people and agents, decided by administrators."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from agentcy_ray.agent.access_requests import AccessRequest, AccessRequests, Status
from agentcy_ray.api.idempotency import once
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.core.ids import decode

router = APIRouter(prefix="/access-requests", tags=["access requests"])
Asker = Annotated[Allowed, permit("access.request")]
Decider = Annotated[Allowed, permit("access.decide")]


class NewAccessRequest(BaseModel):
    """What is missing, and why it is needed."""

    connector: str = Field(min_length=1, max_length=100, examples=["jira"])
    reason: str = Field(min_length=1, max_length=2000)


class AccessDecision(BaseModel):
    """A decision with an optional reason."""

    status: Literal["granted", "refused"]
    note: str | None = Field(default=None, max_length=2000)


@router.get("", response_model=Page[AccessRequest])
async def list_access_requests(
    caller: Decider,
    request: Request,
    status: Status | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """The organisation's requests, newest first."""
    signer = services_of(request).cursors
    position = signer.decode(cursor)
    rows = await _requests(request).list(
        caller.principal,
        status=status,
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.post("", status_code=201, response_model=AccessRequest)
async def ask_for_access(body: NewAccessRequest, caller: Asker, request: Request) -> Response:
    """Ask for a connector; a request that waits already is given again."""

    async def ask() -> AccessRequest:
        return await _requests(request).ask(caller.principal, body.connector, body.reason)

    return await once(request, caller, ask, 201)


@router.post("/{request_id}")
async def decide_access_request(
    request_id: str, body: AccessDecision, caller: Decider, request: Request
) -> AccessRequest:
    """Grant or refuse; the second decision is 409 ``already_decided``."""
    return await _requests(request).decide(
        caller.principal,
        decode("acc", request_id),
        granted=body.status == "granted",
        note=body.note,
    )


def _requests(request: Request) -> AccessRequests:
    return AccessRequests(services_of(request).db)
