"""API keys: what a program sends instead of a login.

A key is its owner, narrowed: at each look-up it has what its owner holds then, of that only the
permissions in its scope, and of the realms those that both have. Only its SHA-256 is kept.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import (
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthenticatedError,
)
from agentcy_ray.core.ids import ApiKeyId, UserId, new_id
from agentcy_ray.core.tenancy import Principal, highest
from agentcy_ray.identity.grants import known_permissions
from agentcy_ray.identity.revocation import Revocations, Revoked
from agentcy_ray.stores.postgres import Database

PREFIX = "agk_"
MAX_KEYS = 100
"""Of one user."""
COARSE = timedelta(minutes=1)
"""``last_used_at`` is written no more often."""

_COLUMNS = (
    "id, user_id, name, permissions, realms, rpm, active, expires_at, last_used_at, created_at"
)
_OWNER = "SELECT active FROM users WHERE id = $1 FOR UPDATE"
_COUNT = "SELECT count(*) FROM api_keys WHERE user_id = $1"
_PARENT = "SELECT expires_at FROM api_keys WHERE id = $1 AND active"
_INSERT = f"""
INSERT INTO api_keys (id, org_id, user_id, name, key_hash, permissions, realms, rpm, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING {_COLUMNS}
"""
_LIST = f"""
SELECT {_COLUMNS} FROM api_keys WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2
"""
_DELETE = "DELETE FROM api_keys WHERE id = $1 RETURNING name, user_id"
_FIND = """
SELECT k.id AS key_id, k.permissions AS scope, k.realms AS key_realms, k.rpm, k.expires_at,
  k.last_used_at, u.id, u.org_id, u.roles, u.permissions, u.realms, u.external_id
FROM api_keys k
JOIN users u ON u.org_id = k.org_id AND u.id = k.user_id AND u.active
JOIN organizations o ON o.id = k.org_id AND o.deleted_at IS NULL
WHERE k.key_hash = $1 AND k.active
"""
_USED = """
UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)
"""


class NewApiKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, examples=["nightly report"])
    permissions: list[str] = Field(
        min_length=1, max_length=100, examples=[["rag.search", "graph.read"]]
    )
    realms: list[str] | None = Field(default=None, max_length=100)
    """None = those of the owner, whichever they are at the time."""
    expires_at: AwareDatetime | None = None
    rpm: int | None = Field(default=None, ge=1, le=1_000_000)

    @field_validator("expires_at")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        try:
            return None if value is None else value.astimezone(UTC)
        except OverflowError:
            raise ValueError("lies beyond the year 9999 in UTC; give an earlier time") from None


class ApiKey(BaseModel):
    """A key as lists show it."""

    model_config = ConfigDict(frozen=True)

    id: ApiKeyId
    user_id: UserId
    name: str
    permissions: list[str]
    realms: list[str] | None
    rpm: int | None
    active: bool
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class MadeApiKey:
    """A new key with its text, which nobody can read again."""

    record: ApiKey
    text: str


@dataclass(frozen=True)
class KeyHolder:
    """Who a key stands for, and until when."""

    principal: Principal
    expires_at: datetime | None


class ApiKeys:
    """Makes, lists, ends and looks up keys."""

    def __init__(self, db: Database, clock: Clock, revocations: Revocations) -> None:
        self._db = db
        self._clock = clock
        self._revocations = revocations

    async def create(self, principal: Principal, new: NewApiKey) -> MadeApiKey:
        """A key of the caller's own, with no more than they hold now.

        One that is made by a key is bound by that key's realms, rate and end as well.

        Raises:
            PermissionDeniedError: a permission or realm is not the caller's to give.
            InvalidError: an unknown permission, or a time that is over.
            RateLimitedError: ``quota_exceeded``.
            UnauthenticatedError: the caller has been ended meanwhile.
        """
        permissions = known_permissions(new.permissions)
        lacking = [name for name in permissions if principal.grant(name) is None]
        if lacking:
            raise PermissionDeniedError(
                f"a key has no more than its maker, and you lack {lacking[0]!r}; leave it out",
                permission=lacking[0],
                missing=lacking,
            )
        if new.expires_at is not None and new.expires_at <= self._clock.now():
            raise InvalidError("`expires_at` is over; give a time to come")
        text = PREFIX + secrets.token_urlsafe(32)
        async with self._db.tenant(principal.org_id) as connection:
            # The row lock makes the count exact, and lets no key come after a deactivation.
            if not await connection.fetchval(_OWNER, principal.user_id):
                raise UnauthenticatedError("this account is disabled; ask an admin to enable it")
            if await connection.fetchval(_COUNT, principal.user_id) >= MAX_KEYS:
                raise RateLimitedError(
                    f"a user has {MAX_KEYS} keys at most; delete one first", code="quota_exceeded"
                )
            row = await connection.fetchrow(
                _INSERT, new_id(), principal.org_id, principal.user_id, new.name, digest(text),
                list(permissions), _realms(principal, new.realms),
                _least(new.rpm, principal.rpm), await _end(connection, principal, new.expires_at),
            )  # fmt: skip
        assert row is not None
        return MadeApiKey(ApiKey(**dict(row)), text)

    async def list(
        self, org_id: UUID, *, limit: int = 50, before: UUID | None = None
    ) -> list[ApiKey]:
        """The organisation's keys, newest first."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, before, limit)
        return [ApiKey(**dict(row)) for row in rows]

    async def delete(self, org_id: UUID, key_id: UUID) -> dict[str, Any]:
        """End a key everywhere; gives the ``name`` and ``user_id`` that it had.

        Raises:
            NotFoundError: the organisation has no such key.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_DELETE, key_id)
        if row is None:
            raise NotFoundError("no such API key; GET /api/v1/api-keys lists those there are")
        await self._revocations.tell(Revoked(api_key_id=key_id))
        return dict(row)

    async def holder(self, text: str) -> KeyHolder:
        """Who a key stands for, as the database knows them now.

        Raises:
            UnauthenticatedError: ``token_invalid`` or ``token_expired``; no more is told.
        """
        now = self._clock.now()
        async with self._db.system() as connection:
            row = await connection.fetchrow(_FIND, digest(text))
            if row is None:
                raise UnauthenticatedError(
                    "the API key is not valid; make one at /api/v1/api-keys", code="token_invalid"
                )
            if row["expires_at"] is not None and row["expires_at"] <= now:
                raise UnauthenticatedError(
                    "the API key has expired; make a new one", code="token_expired"
                )
            if row["last_used_at"] is None or row["last_used_at"] < now - COARSE:
                await connection.execute(_USED, row["key_id"], now, now - COARSE)
        return KeyHolder(_principal(row), row["expires_at"])


def digest(text: str) -> bytes:
    """What is kept of a secret that is shown once."""
    return sha256(text.encode()).digest()


def _principal(row: Any) -> Principal:
    own, key = row["realms"], row["key_realms"]
    both = own if key is None else key if own is None else [name for name in key if name in own]
    return Principal(
        user_id=row["id"],
        org_id=row["org_id"],
        role=highest(row["roles"]),
        permissions=tuple(row["permissions"]),
        realms=None if both is None else tuple(both),
        auth="api_key",
        external_id=row["external_id"],
        api_key_id=row["key_id"],
        scope=tuple(row["scope"]),
        rpm=row["rpm"],
    )


def _realms(principal: Principal, wanted: list[str] | None) -> list[str] | None:
    """The realms of a new key.

    Raises:
        PermissionDeniedError: one is not the caller's.
    """
    if principal.realms is None:
        return wanted
    if wanted is None:  # a person's key follows them, a key's key stays as narrow as that one
        return None if principal.api_key_id is None else list(principal.realms)
    beyond = sorted(set(wanted) - set(principal.realms))
    if beyond:
        raise PermissionDeniedError(
            f"a key has no more than its maker, and the realm {beyond[0]!r} is not yours; leave "
            "it out", missing=beyond,
        )  # fmt: skip
    return wanted


async def _end(connection: Any, principal: Principal, wanted: datetime | None) -> datetime | None:
    """When a new key ends: no later than the one that makes it."""
    if principal.api_key_id is None:
        return wanted
    parent = await connection.fetchrow(_PARENT, principal.api_key_id)
    if parent is None:
        raise UnauthenticatedError("the API key is not valid any more", code="token_invalid")
    return _least(wanted, parent["expires_at"])


def _least(wanted: Any, bound: Any) -> Any:
    """The smaller of two bounds; None = there is none."""
    return min((one for one in (wanted, bound) if one is not None), default=None)
