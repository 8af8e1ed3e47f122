"""Invites: a link that lets one person join an organisation once.

The text of the link is shown to whoever made it, and only its SHA-256 is kept. An invite is worth
what its inviter holds at the time of its use: demoted or deactivated meanwhile, they let nobody in.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import (
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RefusedError,
)
from agentcy_ray.core.ids import InviteId, UserId, new_id
from agentcy_ray.core.tenancy import Principal, Role, highest
from agentcy_ray.identity.api_keys import digest
from agentcy_ray.identity.grants import Holding, require_within
from agentcy_ray.stores.postgres import Database

PREFIX = "inv_"
LIFETIME = timedelta(days=7)

_COLUMNS = "id, email, role, realms, invited_by, expires_at, accepted_at, created_at"
_KNOWN = "SELECT 1 FROM users WHERE lower(email) = lower($1)"
_INSERT = f"""
INSERT INTO invites (id, org_id, email, role, realms, token_hash, invited_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_COLUMNS}
"""
_LIST = f"""
SELECT {_COLUMNS} FROM invites WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2
"""
_DELETE = f"DELETE FROM invites WHERE id = $1 RETURNING {_COLUMNS}"
_SENT_BY = "SELECT invited_by FROM invites WHERE token_hash = $1"
_USE = """
UPDATE invites i SET accepted_at = $2 FROM organizations o
WHERE i.token_hash = $1 AND i.accepted_at IS NULL AND i.expires_at > $2
  AND o.id = i.org_id AND o.deleted_at IS NULL
RETURNING i.id, i.org_id, i.email, i.role, i.realms, i.invited_by, o.name AS org_name
"""
_INVITER = """
SELECT id, org_id, roles, permissions, realms FROM users WHERE id = $1 AND active FOR SHARE
"""


class NewInvite(BaseModel):
    """Whom to invite, and as what."""

    model_config = ConfigDict(extra="forbid")

    email: str = Field(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")
    role: Role = Role.MEMBER


class Invite(BaseModel):
    """An invite as lists show it."""

    model_config = ConfigDict(frozen=True)

    id: InviteId
    email: str
    role: Role
    realms: list[str] | None
    """Those of the inviter; None = every realm."""
    invited_by: UserId
    expires_at: datetime
    accepted_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class Accepted:
    """What an invite, now used, was for."""

    id: UUID
    org_id: UUID
    org_name: str
    role: Role
    realms: list[str] | None


class Invites:
    """Makes, lists, ends and accepts invites."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(self, principal: Principal, new: NewInvite) -> tuple[Invite, str]:
        """An invite and the text of its link.

        Raises:
            PermissionDeniedError: the role holds what the caller lacks.
            ConflictError: the organisation has a user with this e-mail.
        """
        require_within(principal, Holding(new.role, realms=principal.realms))
        text = PREFIX + secrets.token_urlsafe(32)
        realms = None if principal.realms is None else list(principal.realms)
        async with self._db.tenant(principal.org_id) as connection:
            if await connection.fetchval(_KNOWN, new.email):
                raise ConflictError("a user with this e-mail is in the organisation already")
            row = await connection.fetchrow(
                _INSERT, new_id(), principal.org_id, new.email, new.role.value, realms,
                digest(text), principal.user_id, self._clock.now() + LIFETIME,
            )  # fmt: skip
        assert row is not None
        return Invite(**dict(row)), text

    async def list(
        self, org_id: UUID, *, limit: int = 50, before: UUID | None = None
    ) -> list[Invite]:
        """The organisation's invites, newest first, used and expired ones included."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, before, limit)
        return [Invite(**dict(row)) for row in rows]

    async def delete(self, org_id: UUID, invite_id: UUID) -> Invite:
        """End an invite; who has joined by it stays.

        Raises:
            NotFoundError: the organisation has no such invite.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_DELETE, invite_id)
        if row is None:
            raise NotFoundError("no such invite; GET /api/v1/org/invites lists those there are")
        return Invite(**dict(row))

    async def accept(self, connection: Any, text: str, email: str) -> Accepted:
        """Use an invite; it is used when the caller's transaction commits.

        Args:
            connection: inside a transaction of ``db.system()``.
            text: of the link.
            email: of the person; has to be the invited one.

        Raises:
            RefusedError: ``registration_closed``: unknown, used, expired, for somebody else, or
                its inviter may not invite any more. Which of them is not told.
        """
        # The inviter first: whoever deletes them takes the invite after them too.
        sent_by = await connection.fetchval(_SENT_BY, digest(text))
        inviter = await connection.fetchrow(_INVITER, sent_by)
        row = await connection.fetchrow(_USE, digest(text), self._clock.now())
        if row is None or row["email"].lower() != email.lower():
            raise closed()
        role, realms = Role(row["role"]), row["realms"]
        if inviter is None or not _still_may(inviter, role, realms):
            raise closed()
        return Accepted(row["id"], row["org_id"], row["org_name"], role, realms)


def closed() -> RefusedError:
    """The refusal of a registration without a good invite."""
    return RefusedError(
        "registration takes an invite that is addressed to you, unused and not older than "
        f"{LIFETIME.days} days; ask an admin for one",
        code="registration_closed",
    )


def _still_may(inviter: Any, role: Role, realms: list[str] | None) -> bool:
    own = inviter["realms"]
    principal = Principal(
        user_id=inviter["id"],
        org_id=inviter["org_id"],
        role=highest(inviter["roles"]),
        permissions=tuple(inviter["permissions"]),
        realms=None if own is None else tuple(own),
        auth="system",
    )
    try:
        principal.require("org.invite")
        require_within(principal, Holding(role, realms=None if realms is None else tuple(realms)))
    except PermissionDeniedError:
        return False
    return True
