"""Conversations and their messages."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from agentcy_ray.agent.conversations import ChatMessage, Conversation, ConversationSettings
from agentcy_ray.api.idempotency import once
from agentcy_ray.api.pagination import MAX_SEQ, Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.core.ids import decode

router = APIRouter(prefix="/chat/conversations", tags=["chat"])
Reader = Annotated[Allowed, permit("chat.read")]
Writer = Annotated[Allowed, permit("chat.write")]


class NewConversation(BaseModel):
    """A conversation to be started; everything is optional."""

    title: str = Field(default="", max_length=200)
    realm: str | None = None
    agent: str | None = Field(default=None, description="Name of the agent; none = default.")
    model: str | None = Field(default=None, examples=["anthropic:claude-sonnet-4-5"])


class ConversationChange(BaseModel):
    """What to change; absent fields stay."""

    title: str | None = Field(default=None, max_length=200)
    realm: str | None = None
    agent: str | None = None
    model: str | None = None
    archived: bool | None = None


class ReadMark(BaseModel):
    """The number of the last message that was read."""

    seq: int = Field(ge=0, le=MAX_SEQ)


@router.get("", response_model=Page[Conversation])
async def list_conversations(
    caller: Reader,
    request: Request,
    archived: bool = False,
    unread: bool = False,
    q: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """The caller's conversations, newest first."""
    signer = services_of(request).cursors
    position = signer.decode(cursor)
    rows = await services_of(request).conversations.list(
        caller.principal,
        archived=archived,
        unread=unread,
        title=q,
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.post("", status_code=201, response_model=Conversation)
async def create_conversation(body: NewConversation, caller: Writer, request: Request) -> Response:
    """Start a conversation."""
    services = services_of(request)

    async def create() -> Conversation:
        agent = await services.agents.by_name(caller.org_id, body.agent) if body.agent else None
        settings = ConversationSettings(
            title=body.title, realm=body.realm, agent_id=agent and agent.id, model=body.model
        )
        return await services.conversations.create(caller.principal, settings)

    return await once(request, caller, create, 201)


@router.get("/{conversation_id}")
async def read_conversation(conversation_id: str, caller: Reader, request: Request) -> Conversation:
    """One conversation."""
    return await services_of(request).conversations.get(
        caller.principal, decode("cnv", conversation_id)
    )


@router.patch("/{conversation_id}")
async def change_conversation(
    conversation_id: str, body: ConversationChange, caller: Writer, request: Request
) -> Conversation:
    """Change title, realm, agent, model, or archive it."""
    services = services_of(request)
    changes = body.model_dump(exclude_unset=True)
    if "agent" in changes:
        name = changes.pop("agent")
        agent = await services.agents.by_name(caller.org_id, name) if name else None
        changes["agent_id"] = agent and agent.id
    return await services.conversations.update(
        caller.principal, decode("cnv", conversation_id), changes
    )


@router.delete("/{conversation_id}", status_code=204)
async def delete_conversation(conversation_id: str, caller: Writer, request: Request) -> Response:
    """Remove a conversation with its messages and runs."""
    await services_of(request).conversations.delete(
        caller.principal, decode("cnv", conversation_id)
    )
    return Response(status_code=204)


@router.get("/{conversation_id}/messages", response_model=Page[ChatMessage])
async def list_messages(
    conversation_id: str, caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Messages, oldest first; each carries its ``seq``."""
    signer = services_of(request).cursors
    rows = await services_of(request).conversations.messages(
        caller.principal,
        decode("cnv", conversation_id),
        limit=limit + 1,
        after_seq=signer.decode(cursor) or 0,
    )
    return signer.page(rows, limit, lambda row: row.seq)


@router.post("/{conversation_id}/read", status_code=204)
async def mark_read(
    conversation_id: str, body: ReadMark, caller: Reader, request: Request
) -> Response:
    """Note what was read; never goes back."""
    await services_of(request).conversations.mark_read(
        caller.principal, decode("cnv", conversation_id), body.seq
    )
    return Response(status_code=204)
