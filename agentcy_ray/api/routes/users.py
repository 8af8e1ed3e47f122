"""The users of an organisation."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, denials_audited, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.api.witness import witness
from agentcy_ray.core.ids import decode, encode
from agentcy_ray.identity.users import User, UserChange, Users

router = APIRouter(prefix="/users", tags=["users"])
Reader = Annotated[Allowed, permit("user.read")]
Writer = Annotated[Allowed, permit("user.write")]


@router.get("", response_model=Page[User])
async def list_users(
    caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """The organisation's users, newest first."""
    signer = services_of(request).cursors
    position = signer.decode(cursor)
    rows = await _users(request).list(
        caller.org_id, limit=limit + 1, before=UUID(position) if position else None
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.get("/{user_id}")
async def read_user(user_id: str, caller: Reader, request: Request) -> User:
    """One user."""
    return await _users(request).get(caller.org_id, decode("usr", user_id))


@router.patch("/{user_id}")
async def change_user(user_id: str, body: UserChange, caller: Writer, request: Request) -> User:
    """Change role, direct permissions, realms or whether the user may log in.

    Nobody grants what they lack or changes who is above them. A deactivated user's logins and API
    keys end for good. The last owner stays one: 409 `last_owner`.
    """
    wanted = decode("usr", user_id)
    await services_of(request).allowed_realms(caller.principal, body.realms)  # they exist
    async with denials_audited(request, caller, "user.write"):
        changed = await _users(request).change(caller.principal, wanted, body)
    given = body.model_dump(mode="json", exclude_unset=True)
    await witness(request, caller, "user.update", {**_resource(changed), "change": given})
    return changed


@router.delete("/{user_id}", status_code=204)
async def delete_user(user_id: str, caller: Writer, request: Request) -> Response:
    """Delete a user with their conversations, API keys and invites.

    Who comes by OIDC is made anew at their next login: deactivate them instead.
    """
    async with denials_audited(request, caller, "user.write"):
        gone = await _users(request).delete(caller.principal, decode("usr", user_id))
    await witness(request, caller, "user.delete", _resource(gone))
    return Response(status_code=204)


def _users(request: Request) -> Users:
    return services_of(request).access.users


def _resource(user: User) -> dict[str, Any]:
    return {"type": "user", "id": encode("usr", user.id), "email": user.email, "role": user.role}
