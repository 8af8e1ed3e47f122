"""Invites, and the door that they open."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Request
from pydantic import ConfigDict
from starlette.responses import Response

from agentcy_ray.api.idempotency import replied
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, denials_audited, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.api.witness import witness
from agentcy_ray.core.ids import decode, encode
from agentcy_ray.identity.invites import Invite, NewInvite

router = APIRouter(prefix="/org/invites", tags=["organisation"])
Inviter = Annotated[Allowed, permit("org.invite")]


class MadeInvite(Invite):
    """A new invite."""

    model_config = ConfigDict(frozen=True)

    link: str | None
    """For the invited person. Shown this once: null when an `Idempotency-Key` is used again."""


@router.get("", response_model=Page[Invite])
async def list_invites(
    caller: Inviter, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """The organisation's invites, newest first, used and expired ones included."""
    services = services_of(request)
    position = services.cursors.decode(cursor)
    rows = await services.access.invites.list(
        caller.org_id, limit=limit + 1, before=UUID(position) if position else None
    )
    return services.cursors.page(rows, limit, lambda row: row.id)


@router.post("", status_code=201, response_model=MadeInvite)
async def create_invite(body: NewInvite, caller: Inviter, request: Request) -> Response:
    """Invite a person; the link works once, for their e-mail, within 7 days.

    The role may hold nothing that the caller lacks, and the caller's realms bound the person.
    """
    services = services_of(request)
    texts: list[str] = []

    async def make() -> Invite:
        async with denials_audited(request, caller, "org.invite"):
            invite, text = await services.access.invites.create(caller.principal, body)
        texts.append(text)
        await witness(request, caller, "invite.create", _resource(invite))
        return invite

    # The answer is kept for repeated requests, the link is not: of that only a hash exists.
    reply, replayed = await replied(request, caller, make, 201)
    # Behind a #, so that neither proxies nor logs see the text when the link is opened.
    link = f"{services.settings.public_url}/register#invite={texts[0]}" if texts else None
    headers = {"idempotent-replay": "true"} if replayed else None
    body_ = {**reply.body, "link": link}
    return Response(orjson.dumps(body_), reply.status, headers, "application/json")


@router.delete("/{invite_id}", status_code=204)
async def delete_invite(invite_id: str, caller: Inviter, request: Request) -> Response:
    """End an invite; who has joined by it stays."""
    gone = await services_of(request).access.invites.delete(caller.org_id, decode("inv", invite_id))
    await witness(request, caller, "invite.delete", _resource(gone))
    return Response(status_code=204)


def _resource(invite: Invite) -> dict[str, Any]:
    return {
        "type": "invite", "id": encode("inv", invite.id), "email": invite.email,
        "role": invite.role.value,
    }  # fmt: skip
