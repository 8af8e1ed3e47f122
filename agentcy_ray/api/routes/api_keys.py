"""API keys: made by a person or a key, shown once, ended here."""

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
from agentcy_ray.identity.api_keys import ApiKey, NewApiKey

router = APIRouter(prefix="/api-keys", tags=["api keys"])
Reader = Annotated[Allowed, permit("apikey.read")]
Writer = Annotated[Allowed, permit("apikey.write")]


class MadeKey(ApiKey):
    """A new key."""

    model_config = ConfigDict(frozen=True)

    key: str | None
    """What to send as a bearer token or as `X-API-Key`. Shown this once: null when an
    `Idempotency-Key` is used again."""


@router.get("", response_model=Page[ApiKey])
async def list_api_keys(
    caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """The organisation's keys, newest first."""
    services = services_of(request)
    position = services.cursors.decode(cursor)
    rows = await services.access.api_keys.list(
        caller.org_id, limit=limit + 1, before=UUID(position) if position else None
    )
    return services.cursors.page(rows, limit, lambda row: row.id)


@router.post("", status_code=201, response_model=MadeKey)
async def create_api_key(body: NewApiKey, caller: Writer, request: Request) -> Response:
    """Make a key of one's own, with no more than one holds.

    At each request it has what its owner holds then, of that `permissions`, and `realms` where
    they are given.
    """
    services = services_of(request)
    texts: list[str] = []

    async def make() -> ApiKey:
        await services.allowed_realms(caller.principal, body.realms)  # they exist
        async with denials_audited(request, caller, "apikey.write"):
            made = await services.access.api_keys.create(caller.principal, body)
        texts.append(made.text)
        record = made.record
        await witness(
            request, caller, "apikey.create",
            {"type": "api_key", "id": encode("key", record.id), "name": record.name,
             "permissions": record.permissions, "realms": record.realms},
        )  # fmt: skip
        return record

    # The answer is kept for repeated requests, the key is not: of that only the hash exists.
    reply, replayed = await replied(request, caller, make, 201)
    shown = {**reply.body, "key": texts[0] if texts else None}
    headers = {"idempotent-replay": "true"} if replayed else None
    return Response(orjson.dumps(shown), reply.status, headers, "application/json")


@router.delete("/{key_id}", status_code=204)
async def delete_api_key(key_id: str, caller: Writer, request: Request) -> Response:
    """End a key; every process refuses it within 5 s, as a rule at once."""
    wanted = decode("key", key_id)
    gone = await services_of(request).access.api_keys.delete(caller.org_id, wanted)
    resource = {
        "type": "api_key", "id": encode("key", wanted), "name": gone["name"],
        "owner": encode("usr", gone["user_id"]),
    }  # fmt: skip
    await witness(request, caller, "apikey.delete", resource)
    return Response(status_code=204)
