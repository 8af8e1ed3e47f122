"""Requests for access: somebody misses a connector, and an administrator decides."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import ConflictError, NotFoundError
from agentcy_ray.core.ids import AccessRequestId, UserId, encode, new_id
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.stores.postgres import Database

Status = Literal["pending", "granted", "refused"]

_COLUMNS = "id, user_id, connector, reason, status, decided_by, decided_at, note, created_at"
# Whoever asks again while a request waits gets that one; asking at once from two places may make
# two, which an administrator sees and decides.
_PENDING = f"""
SELECT {_COLUMNS} FROM access_requests
WHERE user_id = $1 AND connector = $2 AND status = 'pending' ORDER BY id LIMIT 1
"""
_INSERT = f"""
INSERT INTO access_requests (id, org_id, user_id, connector, reason) VALUES ($1, $2, $3, $4, $5)
RETURNING {_COLUMNS}
"""
_LIST = f"""
SELECT {_COLUMNS} FROM access_requests
WHERE ($1::text IS NULL OR status = $1) AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""
_DECIDE = f"""
UPDATE access_requests SET status = $2, decided_by = $3, note = $4, decided_at = clock_timestamp()
WHERE id = $1 AND status = 'pending' RETURNING {_COLUMNS}
"""
_STATUS = "SELECT status FROM access_requests WHERE id = $1"


class AccessRequest(BaseModel):
    """A request. Granting it records the decision; the source is made by whoever decides."""

    model_config = ConfigDict(frozen=True)

    id: AccessRequestId
    user_id: UserId
    connector: str
    reason: str
    status: Status
    decided_by: UserId | None
    decided_at: datetime | None
    note: str | None
    created_at: datetime


class AccessRequests:
    """Rows of ``access_requests``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def ask(self, principal: Principal, connector: str, reason: str) -> AccessRequest:
        """Ask for a connector; the caller's pending request for it, where there is one.

        Raises:
            PermissionDeniedError: without ``access.request``.
        """
        principal.require("access.request")
        async with self._db.tenant(principal.org_id) as connection:
            row = await connection.fetchrow(
                _PENDING, principal.user_id, connector
            ) or await connection.fetchrow(
                _INSERT, new_id(), principal.org_id, principal.user_id, connector, reason
            )
        assert row is not None
        return AccessRequest(**dict(row))

    async def list(
        self,
        principal: Principal,
        *,
        status: Status | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> tuple[AccessRequest, ...]:
        """The organisation's requests, newest first.

        Raises:
            PermissionDeniedError: without ``access.decide``.
        """
        principal.require("access.decide")
        async with self._db.tenant(principal.org_id) as connection:
            rows = await connection.fetch(_LIST, status, before, limit)
        return tuple(AccessRequest(**dict(row)) for row in rows)

    async def decide(
        self, principal: Principal, request_id: UUID, *, granted: bool, note: str | None = None
    ) -> AccessRequest:
        """Grant or refuse.

        Raises:
            PermissionDeniedError: without ``access.decide``.
            NotFoundError: there is no such request.
            ConflictError: ``already_decided``.
        """
        principal.require("access.decide")
        status: Status = "granted" if granted else "refused"
        async with self._db.tenant(principal.org_id) as connection:
            row = await connection.fetchrow(_DECIDE, request_id, status, principal.user_id, note)
            former = None if row else await connection.fetchval(_STATUS, request_id)
        if row is not None:
            return AccessRequest(**dict(row))
        public = encode("acc", request_id)
        if former is None:
            raise NotFoundError(f"no access request {public}")
        raise ConflictError(f"{public} was {former} already", code="already_decided")
