"""The users of an organisation: read, changed and ended by whoever may.

Nobody raises a user above themselves, nobody touches a user above them, and an organisation always
has an owner who can log in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
)
from agentcy_ray.core.ids import UserId
from agentcy_ray.core.tenancy import Principal, Role, highest
from agentcy_ray.identity.grants import (
    Holding,
    known_permissions,
    require_rank,
    require_within,
)
from agentcy_ray.identity.revocation import Revocations, Revoked
from agentcy_ray.stores.postgres import Database

_COLUMNS = (
    "id, email, name, roles, permissions, realms, active, auth_provider, last_login_at, created_at"
)
_LIST = f"""
SELECT {_COLUMNS} FROM users WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2
"""
_GET = f"SELECT {_COLUMNS} FROM users WHERE id = $1"
# Taken by whoever may end an owner, always first and in one order: of two that would leave nobody,
# the second sees what the first did.
_OWNERS = "SELECT id FROM users WHERE 'owner' = ANY(roles) AND active ORDER BY id FOR UPDATE"
_TAKE = f"{_GET} FOR UPDATE"
_CHANGE = f"""
UPDATE users SET roles = $2, permissions = $3, realms = $4, active = $5 WHERE id = $1
RETURNING {_COLUMNS}
"""
_END_SESSIONS = (
    "UPDATE login_sessions SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL"
)
_END_KEYS = "UPDATE api_keys SET active = false WHERE user_id = $1 AND active"
_DELETE = "DELETE FROM users WHERE id = $1"


class User(BaseModel):
    """A user as the organisation's administrators see them."""

    model_config = ConfigDict(frozen=True)

    id: UserId
    email: str
    name: str
    role: Role
    permissions: list[str]
    """Direct grants beyond the role."""
    realms: list[str] | None
    """None = every realm."""
    active: bool
    auth_provider: str
    last_login_at: datetime | None
    created_at: datetime


class UserChange(BaseModel):
    """What to change; absent fields stay. ``realms`` null = every realm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role | None = None
    permissions: list[str] | None = Field(default=None, max_length=100)
    realms: list[str] | None = Field(default=None, max_length=100)
    active: bool | None = None


class Users:
    """Rows of ``users``, under the rules of who may do what to whom."""

    def __init__(self, db: Database, clock: Clock, revocations: Revocations) -> None:
        self._db = db
        self._clock = clock
        self._revocations = revocations

    async def list(
        self, org_id: UUID, *, limit: int = 50, before: UUID | None = None
    ) -> list[User]:
        """The organisation's users, newest first."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, before, limit)
        return [_user(row) for row in rows]

    async def get(self, org_id: UUID, user_id: UUID) -> User:
        """One user.

        Raises:
            NotFoundError: the organisation has no such user.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, user_id)
        return _user(_there(row))

    async def change(self, principal: Principal, user_id: UUID, change: UserChange) -> User:
        """Change a user; who is deactivated loses logins and keys, for good.

        Raises:
            NotFoundError: the organisation has no such user.
            InvalidError: an unknown permission.
            PermissionDeniedError: the user is above the caller, or would get what they lack.
            ConflictError: ``last_owner``.
        """
        async with self._db.tenant(principal.org_id) as connection:
            owners = {row["id"] for row in await connection.fetch(_OWNERS)}
            before = _user(_there(await connection.fetchrow(_TAKE, user_id)))
            after = _changed(before, change)
            require_rank(principal, before.role)
            held = _holding(before)
            require_within(principal, _holding(after), held if _stays(before, after) else None)
            if not (after.active and after.role is Role.OWNER):
                _keep_an_owner(owners, user_id)
            row = await connection.fetchrow(
                _CHANGE, user_id, [after.role.value], after.permissions, after.realms, after.active
            )
            if not after.active:
                await connection.execute(_END_SESSIONS, user_id, self._clock.now())
                await connection.execute(_END_KEYS, user_id)
        await self._revocations.tell(Revoked(user_id=user_id))
        return _user(row)

    async def delete(self, principal: Principal, user_id: UUID) -> User:
        """Delete a user with their logins, keys, invites and conversations; gives who they were.

        Raises:
            NotFoundError, PermissionDeniedError, ConflictError: as ``change``.
        """
        async with self._db.tenant(principal.org_id) as connection:
            owners = {row["id"] for row in await connection.fetch(_OWNERS)}
            before = _user(_there(await connection.fetchrow(_TAKE, user_id)))
            require_rank(principal, before.role)
            _keep_an_owner(owners, user_id)
            await connection.execute(_DELETE, user_id)
        await self._revocations.tell(Revoked(user_id=user_id))
        return before

    async def transfer(self, principal: Principal, user_id: UUID) -> User:
        """Make another user the owner in the caller's place, who becomes an admin.

        Raises:
            NotFoundError: the organisation has no such user.
            InvalidError: it is the caller, or somebody who cannot log in.
            PermissionDeniedError: the caller is no owner, or holds less than one.
        """
        if user_id == principal.user_id:
            raise InvalidError("you are the owner already; name another user")
        async with self._db.tenant(principal.org_id) as connection:
            await connection.fetch(_OWNERS)
            heir = _user(_there(await connection.fetchrow(_TAKE, user_id)))
            own = _user(_there(await connection.fetchrow(_TAKE, principal.user_id)))
            if own.role is not Role.OWNER:  # since a moment ago, perhaps by the same request
                raise PermissionDeniedError("only an owner hands over, and you are none any more")
            if not heir.active:
                raise InvalidError("this user is deactivated; activate them first")
            realms = None if principal.realms is None else list(principal.realms)
            crowned = heir.model_copy(update={"role": Role.OWNER, "realms": realms})
            require_within(principal, _holding(crowned), _holding(heir))
            row = await connection.fetchrow(
                _CHANGE, user_id, [Role.OWNER.value], heir.permissions, realms, True
            )
            await connection.execute(
                _CHANGE, own.id, [Role.ADMIN.value], own.permissions, own.realms, own.active
            )
        for changed in (user_id, principal.user_id):
            await self._revocations.tell(Revoked(user_id=changed))
        return _user(row)


def _there(row: Any) -> Any:
    if row is None:
        raise NotFoundError("no such user; GET /api/v1/users lists those there are")
    return row


def _user(row: Any) -> User:
    values = dict(row)
    return User(role=highest(values.pop("roles")), **values)


def _holding(user: User) -> Holding:
    realms = None if user.realms is None else tuple(user.realms)
    return Holding(user.role, tuple(user.permissions), realms)


def _changed(user: User, change: UserChange) -> User:
    given = {field: getattr(change, field) for field in change.model_fields_set}
    known = {key: value for key, value in given.items() if value is not None or key == "realms"}
    if change.permissions is not None:
        known["permissions"] = list(known_permissions(change.permissions))
    return user.model_copy(update=known)


def _stays(before: User, after: User) -> bool:
    """Whether the user keeps what they have; one who is activated gains it all."""
    return before.active or not after.active


def _keep_an_owner(owners: set[UUID], leaving: UUID) -> None:
    if owners == {leaving}:
        raise ConflictError(
            "this is the last owner; make another user an owner first", code="last_owner"
        )
