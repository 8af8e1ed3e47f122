"""Approvals: what waits for a person, and deciding it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from agentcy_ray.agent.approvals import Approval
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import decode

router = APIRouter(tags=["approvals"])
Reader = Annotated[Allowed, permit("chat.read")]
Approver = Annotated[Allowed, permit("chat.approve", handler_audits=True)]
Status = Literal["pending", "approved", "denied", "expired", "cancelled", "consumed"]


class Verdict(BaseModel):
    """A decision with an optional reason."""

    approved: bool
    note: str | None = Field(default=None, max_length=2000)
    via: Literal["api", "console", "cli"] = "api"


@router.get("/approvals", response_model=Page[Approval])
async def list_approvals(
    caller: Reader,
    request: Request,
    status: Status | None = None,
    mine: bool = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Approvals that the caller may see, newest first."""
    return await _page(request, caller, status, mine, None, limit, cursor)


@router.get("/chat/conversations/{conversation_id}/approvals", response_model=Page[Approval])
async def list_conversation_approvals(
    conversation_id: str,
    caller: Reader,
    request: Request,
    status: Status | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Approvals of one conversation, newest first."""
    conversation = await services_of(request).conversations.get(
        caller.principal, decode("cnv", conversation_id)
    )
    return await _page(request, caller, status, False, conversation.id, limit, cursor)


@router.get("/approvals/{approval_id}")
async def read_approval(approval_id: str, caller: Reader, request: Request) -> Approval:
    """One approval."""
    return await services_of(request).gates.approvals.get(
        caller.principal, decode("apr", approval_id)
    )


@router.post("/approvals/{approval_id}")
async def decide(approval_id: str, body: Verdict, caller: Approver, request: Request) -> Approval:
    """Approve or deny; the second decision is 409 ``already_decided``, a late one 410.

    Where a policy wants several people the answer stays ``pending`` until enough have approved.
    """
    return await services_of(request).gates.approvals.decide(
        caller.principal,
        decode("apr", approval_id),
        approved=body.approved,
        via=body.via,
        note=body.note,
        request_id=caller.request_id,
    )


@router.post("/chat/conversations/{conversation_id}/approvals/{approval_id}")
async def decide_in_conversation(
    conversation_id: str, approval_id: str, body: Verdict, caller: Approver, request: Request
) -> Approval:
    """As `POST /approvals/{approval_id}`, for one of this conversation."""
    services = services_of(request)
    conversation = await services.conversations.get(
        caller.principal, decode("cnv", conversation_id)
    )
    approval = await services.gates.approvals.get(caller.principal, decode("apr", approval_id))
    if approval.conversation_id != conversation.id:
        raise NotFoundError(f"conversation {conversation_id} has no approval {approval_id}")
    return await decide(approval_id, body, caller, request)


async def _page(
    request: Request,
    caller: Allowed,
    status: Status | None,
    mine: bool,
    conversation_id: UUID | None,
    limit: int,
    cursor: str | None,
) -> dict[str, Any]:
    signer = services_of(request).cursors
    position = signer.decode(cursor)
    rows = await services_of(request).gates.approvals.list(
        caller.principal,
        status=status,
        mine=mine,
        conversation_id=conversation_id,
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    return signer.page(list(rows), limit, lambda row: row.id)
