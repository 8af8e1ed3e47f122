"""Realms: list, make, change, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from agentcy_ray.api.idempotency import once
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.realms import NewRealm, Realm, RealmChange
from agentcy_ray.api.services import services_of

router = APIRouter(prefix="/realms", tags=["realms"])
Reader = Annotated[Allowed, permit("graph.read")]
Writer = Annotated[Allowed, permit("realm.write")]


@router.get("", response_model=Page[Realm])
async def list_realms(
    caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Realms by name."""
    signer = services_of(request).cursors
    rows = await services_of(request).realms.list(caller.org_id, limit + 1, signer.decode(cursor))
    return signer.page(rows, limit, lambda realm: realm.name)


@router.post("", status_code=201, response_model=Realm)
async def create_realm(body: NewRealm, caller: Writer, request: Request) -> Response:
    """Make a realm."""
    realms = services_of(request).realms
    return await once(request, caller, lambda: realms.create(caller.org_id, body), 201)


@router.patch("/{name}")
async def change_realm(name: str, body: RealmChange, caller: Writer, request: Request) -> Realm:
    """Change description or link rules."""
    return await services_of(request).realms.change(caller.org_id, name, body)


@router.delete("/{name}", status_code=204)
async def delete_realm(name: str, caller: Writer, request: Request) -> Response:
    """Delete a realm that nothing uses."""
    await services_of(request).realms.delete(caller.org_id, name)
    return Response(status_code=204)
