"""Login sessions of every provider, in Postgres: opened, carried on by refresh tokens, ended.

A refresh token works once. Presenting a used one means that somebody else holds it too, so its
whole session family is revoked.

Whoever opens a session, uses one or ends some holds the user's row, so they go one after the other:
a session that is opened while others are ended is either among them or refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import RefusedError, UnauthenticatedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Principal, Role, highest
from agentcy_ray.identity.revocation import Revoked
from agentcy_ray.identity.tokens import Claims, Tokens, expiry
from agentcy_ray.stores.postgres import Database

TAKE_USER = """
SELECT u.id, u.org_id, u.email, u.roles, u.active, u.auth_provider, u.password_hash
FROM users u JOIN organizations o ON o.id = u.org_id AND o.deleted_at IS NULL
WHERE u.id = $1 FOR NO KEY UPDATE OF u
"""
_SESSION = """
SELECT family_id, used_at, used_at IS NULL AND revoked_at IS NULL AND expires_at > $2 AS good
FROM login_sessions WHERE refresh_hash = $1
"""
_NEW_SESSION = """
INSERT INTO login_sessions
  (id, org_id, user_id, family_id, refresh_hash, expires_at, ip, user_agent)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_USE_REFRESH = "UPDATE login_sessions SET used_at = $2 WHERE refresh_hash = $1"
_REVOKE_FAMILY = """
UPDATE login_sessions SET revoked_at = $2 WHERE family_id = $1 AND revoked_at IS NULL
"""
REVOKE_OTHERS = """
UPDATE login_sessions SET revoked_at = $3
WHERE user_id = $1 AND family_id <> $2 AND revoked_at IS NULL
"""
KEEP_HASH = """
UPDATE users SET password_hash = $2, must_change_password = must_change_password AND NOT $3
WHERE id = $1
"""
_HOLDER = "SELECT org_id, user_id FROM login_sessions WHERE refresh_hash = $1"
_PRINCIPAL = """
SELECT u.id, u.org_id, u.roles, u.permissions, u.realms, u.external_id, u.active,
       u.auth_provider, u.must_change_password, bool_or(s.revoked_at IS NULL) AS alive
FROM users u JOIN login_sessions s ON s.user_id = u.id AND s.family_id = $2
JOIN organizations o ON o.id = u.org_id AND o.deleted_at IS NULL
WHERE u.id = $1 GROUP BY u.id
"""
Tell = Callable[[Revoked], Awaitable[None]]


@dataclass(frozen=True)
class Client:
    """Where a login comes from."""

    ip: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True)
class Account:
    """Whom a refused login was about, as far as anybody can say."""

    org_id: UUID
    user_id: UUID | None


@dataclass(frozen=True)
class Login:
    """What a login answers."""

    token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    user_id: UUID
    org_id: UUID
    email: str
    role: Role


class Sessions:
    """Logins that are under way, whoever vouched for the person."""

    def __init__(
        self,
        db: Database,
        tokens: Tokens,
        clock: Clock,
        refresh_lifetime_secs: int,
        providers: Collection[str] = ("local",),
        tell: Tell | None = None,
    ) -> None:
        """A login of a provider that is not among ``providers`` is refused, and so is its session.

        Args:
            db: users and sessions.
            tokens: signs and verifies.
            clock: what expires by.
            refresh_lifetime_secs: how long a refresh token lives.
            providers: those of ``AUTH_PROVIDER``.
            tell: gets to know of a login that ends because its refresh token was used twice.
        """
        self._db = db
        self._tokens = tokens
        self._clock = clock
        self._refresh_lifetime = refresh_lifetime_secs
        self._providers = frozenset(providers)
        self._tell = tell

    async def refresh(self, refresh_token: str, client: Client | None = None) -> Login:
        """Exchange a refresh token for a new pair.

        Raises:
            UnauthenticatedError: ``token_reused`` (its family is now revoked) or ``token_invalid``.
        """
        digest, now = _digest(refresh_token), self._clock.now()
        holder = await self.holder_of(refresh_token)
        if holder is None:
            raise _refresh_invalid()
        async with self._db.tenant(holder.org_id) as connection:
            user = await connection.fetchrow(TAKE_USER, holder.user_id)
            session = await connection.fetchrow(_SESSION, digest, now)
            if user is None or session is None:
                raise _refresh_invalid()
            family: UUID = session["family_id"]
            if session["good"] and self._may_stay(user):
                await connection.execute(_USE_REFRESH, digest, now)
                return await self._begin(connection, user, family, client)
            if session["used_at"] is not None:
                await connection.execute(_REVOKE_FAMILY, family, now)
        if session["used_at"] is None:
            raise _refresh_invalid()
        if self._tell is not None:
            await self._tell(Revoked(session_id=family))
        raise UnauthenticatedError(
            "this refresh token was used before, so all sessions of its login were ended; "
            "log in again", code="token_reused",
        )  # fmt: skip

    async def open_session(self, user: Any, client: Client) -> Login:
        """A login of somebody for whom another provider vouches.

        Args:
            user: ``id`` and ``org_id`` of their row.
            client: where the login comes from.

        Raises:
            RefusedError: ``account_disabled``: meanwhile.
        """
        login = await self._open(user["org_id"], user["id"], client)
        assert login is not None
        return login

    def _may_stay(self, user: Any) -> bool:
        """Whether the account is enabled, and its provider is still one of ours."""
        return user["active"] and user["auth_provider"] in self._providers

    async def holder_of(self, refresh_token: str) -> Account | None:
        """Whose refresh token this is or was."""
        async with self._db.system() as connection:
            row = await connection.fetchrow(_HOLDER, _digest(refresh_token))
        return None if row is None else Account(row["org_id"], row["user_id"])

    async def logout(self, claims: Claims) -> None:
        """End the login that a token belongs to."""
        async with self._db.tenant(claims.org_id) as connection:
            await connection.fetchrow(TAKE_USER, claims.user_id)
            await connection.execute(_REVOKE_FAMILY, claims.session_id, self._clock.now())

    async def principal(self, claims: Claims) -> Principal:
        """Who a verified token stands for, as the database knows them now.

        Raises:
            UnauthenticatedError: the session was revoked, or the user is gone.
        """
        async with self._db.tenant(claims.org_id) as connection:
            row = await connection.fetchrow(_PRINCIPAL, claims.user_id, claims.session_id)
        if row is None or not self._may_stay(row) or not row["alive"]:
            raise UnauthenticatedError("this login has ended; log in again", code="token_invalid")
        return Principal(
            user_id=row["id"],
            org_id=row["org_id"],
            role=highest(row["roles"]),
            permissions=tuple(row["permissions"]),
            realms=None if row["realms"] is None else tuple(row["realms"]),
            auth=row["auth_provider"],
            external_id=row["external_id"],
            session_id=claims.session_id,
            must_change_password=row["must_change_password"],
        )

    async def _open(
        self,
        org_id: UUID,
        user_id: UUID,
        client: Client | None,
        *,
        verified: str | None = None,
        renewed: str | None = None,
    ) -> Login | None:
        """A new login; None when the password is not the ``verified`` one any more.

        Args:
            org_id: where.
            user_id: whose.
            client: where the login comes from.
            verified: the hash that a password was good for; None = another provider vouches.
            renewed: takes its place.
        """
        async with self._db.tenant(org_id) as connection:
            user = await connection.fetchrow(TAKE_USER, user_id)
            if user is None or not self._may_stay(user):
                raise disabled()
            if verified is not None and user["password_hash"] != verified:
                return None
            if renewed is not None:
                await connection.execute(KEEP_HASH, user_id, renewed, False)
            return await self._begin(connection, user, new_id(), client)

    async def _begin(
        self, connection: Any, user: Any, family_id: UUID, client: Client | None
    ) -> Login:
        """A session row and its two tokens. ``sid`` is the family: revoking it ends them all."""
        refresh_token, now = f"rt_{secrets.token_urlsafe(32)}", self._clock.now()
        client = client or Client()
        await connection.execute(
            _NEW_SESSION, new_id(), user["org_id"], user["id"], family_id, _digest(refresh_token),
            expiry(now, self._refresh_lifetime), client.ip, client.user_agent,
        )  # fmt: skip
        await connection.execute(
            "UPDATE users SET last_login_at = $2 WHERE id = $1", user["id"], now
        )
        role = highest(user["roles"])
        return Login(
            token=self._tokens.sign(user["id"], user["org_id"], role, family_id),
            refresh_token=refresh_token,
            expires_in=self._tokens.lifetime_secs,
            user_id=user["id"],
            org_id=user["org_id"],
            email=user["email"],
            role=role,
        )


def disabled() -> RefusedError:
    """The refusal of somebody whose account is switched off."""
    return RefusedError(
        "this account is disabled; ask an admin to enable it", code="account_disabled"
    )


def _refresh_invalid() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the refresh token is not valid; log in again", code="token_invalid"
    )


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
