"""``Idempotency-Key``: a repeated POST gets the first answer and has no second effect.

The key's row is taken before the handler runs, so two that race for it cannot both run; it is kept
for 24 hours per (organisation, route, key). An answer is given again to its own caller alone: what
one may see, another of the same organisation may not.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

import orjson
from fastapi import Request
from fastapi.encoders import jsonable_encoder
from starlette.responses import Response

from agentcy_ray.api.permit import Allowed
from agentcy_ray.api.services import services_of
from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.errors import BadRequestError, ConflictError
from agentcy_ray.stores.postgres import Database

KEPT = timedelta(hours=24)
RUNNING = timedelta(minutes=10)
"""A key whose request has not answered for so long may be used again: its process is gone."""
_KEY = re.compile(r"^[\x21-\x7e]{1,128}$")

_TAKE = """
INSERT INTO idempotency_keys (org_id, route, key, body_sha256, expires_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (org_id, route, key) DO UPDATE SET
  body_sha256 = EXCLUDED.body_sha256, expires_at = EXCLUDED.expires_at, status = NULL, answer = NULL
  WHERE idempotency_keys.expires_at < $6
RETURNING 1
"""
_FOUND = "SELECT body_sha256, status, answer FROM idempotency_keys WHERE route = $1 AND key = $2"
_KEEP = """
UPDATE idempotency_keys SET status = $3, answer = $4, expires_at = $5 WHERE route = $1 AND key = $2
"""
_DROP = "DELETE FROM idempotency_keys WHERE route = $1 AND key = $2"


def key_of(request: Request) -> str | None:
    """The request's idempotency key.

    Raises:
        BadRequestError: it is not 1–128 visible ASCII characters.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.match(key):
        raise BadRequestError("Idempotency-Key must be 1 to 128 visible ASCII characters")
    return key


@dataclass(frozen=True)
class Reply:
    """An answer whose status the handler chooses."""

    body: Any
    status: int
    plain: bool = False
    """Whether ``body`` is made of JSON values already: then nothing walks through it again."""


async def once(
    request: Request, caller: Allowed, handler: Callable[[], Awaitable[Any]], status: int = 200
) -> Response:
    """The answer of ``handler``, or the one that this key has already; as ``replied``."""
    reply, replayed = await replied(request, caller, handler, status)
    headers = {"idempotent-replay": "true"} if replayed else None
    return Response(orjson.dumps(reply.body), reply.status, headers, "application/json")


async def replied(
    request: Request, caller: Allowed, handler: Callable[[], Awaitable[Any]], status: int = 200
) -> tuple[Reply, bool]:
    """Run ``handler`` unless this key has an answer already; with whether it had one.

    ``handler`` gives the body of an answer with ``status``, or a ``Reply``. When it raises, nothing
    has happened and the key may be used again.

    Raises:
        ConflictError: ``idempotency_mismatch`` for another body, query or caller; ``conflict``
            while the first request is still running.
    """
    key = key_of(request)
    if key is None:
        return _reply(await handler(), status), False
    db: Database = services_of(request).db
    route = f"{request.method} {request.url.path}"
    digest, now = await _digest(request, caller), SystemClock().now()
    async with db.tenant(caller.org_id) as connection:
        fresh = await connection.fetchval(
            _TAKE, caller.org_id, route, key, digest, now + RUNNING, now
        )
        found = None if fresh else await connection.fetchrow(_FOUND, route, key)
    if found is not None:
        return _replay(found, digest), True
    try:
        reply = _reply(await handler(), status)
    except BaseException:
        async with db.tenant(caller.org_id) as connection:
            await connection.execute(_DROP, route, key)
        raise
    async with db.tenant(caller.org_id) as connection:
        await connection.execute(_KEEP, route, key, reply.status, reply.body, now + KEPT)
    return reply, False


async def _digest(request: Request, caller: Allowed) -> bytes:
    """What a repeated request must have in common with the first: its caller, query and body."""
    query: bytes = request.scope["query_string"]
    asked = sha256(caller.principal.user_id.bytes + len(query).to_bytes(8) + query)
    asked.update(await request.body())
    return asked.digest()


def _reply(answer: Any, status: int) -> Reply:
    """The answer as JSON values."""
    reply = answer if isinstance(answer, Reply) else Reply(answer, status)
    return reply if reply.plain else Reply(jsonable_encoder(reply.body), reply.status, plain=True)


def _replay(found: Any, digest: bytes) -> Reply:
    if found["body_sha256"] != digest:
        raise ConflictError(
            "this Idempotency-Key was used with another body, query or caller; use a new key",
            code="idempotency_mismatch",
        )
    if found["status"] is None:
        raise ConflictError("the first request with this Idempotency-Key still runs; wait for it")
    return Reply(found["answer"], found["status"], plain=True)
