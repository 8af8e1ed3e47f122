"""The local identity provider: e-mail and password, sessions in Postgres, a JWT on each request.

A refresh token works once. Presenting a used one means that somebody else holds it too, so its
whole session family is revoked.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import BadRequestError, RefusedError, UnauthenticatedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Principal, Role, highest
from agentcy_ray.identity.passwords import Passwords, check_new
from agentcy_ray.identity.provider import Identified, ProviderName
from agentcy_ray.identity.tokens import ISSUER, Claims, Tokens, expiry
from agentcy_ray.stores.postgres import Database

_FIND_USER = """
SELECT u.id, u.org_id, u.email, u.name, u.roles, u.password_hash, u.active
FROM users u JOIN organizations o ON o.id = u.org_id AND o.deleted_at IS NULL
WHERE lower(u.email) = lower($1) AND ($2::text IS NULL OR o.name = $2)
  AND u.auth_provider = 'local'
"""
_ORG = """
SELECT id FROM organizations WHERE deleted_at IS NULL AND ($1::text IS NULL OR name = $1) LIMIT 2
"""
_HOLDER = "SELECT org_id, user_id FROM login_sessions WHERE refresh_hash = $1"
_USER = "SELECT id, org_id, email, roles, active, auth_provider FROM users WHERE id = $1"
_NEW_SESSION = """
INSERT INTO login_sessions
  (id, org_id, user_id, family_id, refresh_hash, expires_at, ip, user_agent)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_USE_REFRESH = """
UPDATE login_sessions SET used_at = $2
WHERE refresh_hash = $1 AND used_at IS NULL AND revoked_at IS NULL AND expires_at > $2
RETURNING org_id, user_id, family_id
"""
_REVOKE_FAMILY = """
UPDATE login_sessions SET revoked_at = $2 WHERE family_id = $1 AND revoked_at IS NULL
"""
_KEEP_HASH = """
UPDATE users SET password_hash = $2, must_change_password = must_change_password AND NOT $3
WHERE id = $1
"""
_PRINCIPAL = """
SELECT u.id, u.org_id, u.roles, u.permissions, u.realms, u.external_id, u.active,
       u.auth_provider, u.must_change_password, bool_or(s.revoked_at IS NULL) AS alive
FROM users u JOIN login_sessions s ON s.user_id = u.id AND s.family_id = $2
WHERE u.id = $1 GROUP BY u.id
"""


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


class LocalIdentity:
    """Logins of people whose password we keep, and the sessions of all logins."""

    def __init__(
        self,
        db: Database,
        tokens: Tokens,
        clock: Clock,
        refresh_lifetime_secs: int,
        providers: Collection[str] = ("local",),
    ) -> None:
        """A login of a provider that is not among ``providers`` is refused, and so is its session.

        Args:
            db: users and sessions.
            tokens: signs and verifies.
            clock: what expires by.
            refresh_lifetime_secs: how long a refresh token lives.
            providers: those of ``AUTH_PROVIDER``.
        """
        self._db = db
        self._tokens = tokens
        self._clock = clock
        self._passwords = Passwords()
        self._refresh_lifetime = refresh_lifetime_secs
        self._providers = frozenset(providers)

    @property
    def name(self) -> ProviderName:
        """What ``AUTH_PROVIDER`` calls it."""
        return "local"

    async def issuer(self) -> str:
        """The ``iss`` of the tokens that we sign, for logins of every provider."""
        return ISSUER

    async def verify(self, token: str) -> Identified:
        """Whom one of our own tokens stands for.

        Raises:
            UnauthenticatedError: ``token_expired`` or ``token_invalid``.
        """
        claims = self._tokens.verify(token)
        return Identified(await self.principal(claims), claims, claims.expires_at)

    async def login(
        self, email: str, password: str, org: str | None = None, client: Client | None = None
    ) -> Login:
        """Check e-mail and password; a wrong one of either costs and says the same.

        Raises:
            UnauthenticatedError: ``invalid_credentials``.
            BadRequestError: ``org_required``: the e-mail exists in several organisations.
            RefusedError: ``account_disabled``, or passwords are not used here.
        """
        if self.name not in self._providers:
            raise RefusedError(
                "nobody logs in by a password here; open /api/v1/auth/oidc/start in a browser"
            )
        async with self._db.system() as connection:
            rows = await connection.fetch(_FIND_USER, email, org)
        if len(rows) > 1:
            raise BadRequestError(
                "this e-mail exists in several organisations; send `org` too", code="org_required"
            )
        row = rows[0] if rows else None
        stored = None if row is None else row["password_hash"]
        good = await self._passwords.verify(stored, password)
        if row is None or not good:
            raise UnauthenticatedError(
                "wrong e-mail or password; try again", code="invalid_credentials"
            )
        if not row["active"]:
            raise RefusedError(
                "this account is disabled; ask an admin to enable it", code="account_disabled"
            )
        if self._passwords.outdated(row["password_hash"]):
            await self._store_password(row["org_id"], row["id"], password, chosen=False)
        return await self._open(row, family_id=new_id(), client=client or Client())

    async def account_of(self, email: str, org: str | None = None) -> Account | None:
        """Whose log a refused login by this e-mail belongs into; not for the one who tried.

        An e-mail that nobody has is the business of the organisation that was named, or of the only
        one there is.
        """
        async with self._db.system() as connection:
            rows = await connection.fetch(_FIND_USER, email, org)
            if len(rows) == 1:
                return Account(rows[0]["org_id"], rows[0]["id"])
            orgs = await connection.fetch(_ORG, org)
        return Account(orgs[0]["id"], None) if not rows and len(orgs) == 1 else None

    async def holder_of(self, refresh_token: str) -> Account | None:
        """Whose refresh token this is or was."""
        async with self._db.system() as connection:
            row = await connection.fetchrow(_HOLDER, _digest(refresh_token))
        return None if row is None else Account(row["org_id"], row["user_id"])

    async def refresh(self, refresh_token: str, client: Client | None = None) -> Login:
        """Exchange a refresh token for a new pair.

        Raises:
            UnauthenticatedError: ``token_reused`` (its family is now revoked) or ``token_invalid``.
        """
        digest, now = _digest(refresh_token), self._clock.now()
        async with self._db.system() as connection:
            used = await connection.fetchrow(_USE_REFRESH, digest, now)
        if used is None:
            raise await self._refuse_refresh(digest)
        async with self._db.tenant(used["org_id"]) as connection:
            user = await connection.fetchrow(_USER, used["user_id"])
        if user is None or not self._may_stay(user):
            raise UnauthenticatedError("this account is gone; log in anew", code="token_invalid")
        return await self._open(user, family_id=used["family_id"], client=client or Client())

    async def open_session(self, user: Any, client: Client) -> Login:
        """A login of somebody for whom another provider vouches.

        Args:
            user: ``id``, ``org_id``, ``email`` and ``roles`` of their row.
            client: where the login comes from.
        """
        return await self._open(user, family_id=new_id(), client=client)

    def _may_stay(self, user: Any) -> bool:
        """Whether the account is enabled, and its provider is still one of ours."""
        return user["active"] and user["auth_provider"] in self._providers

    async def _refuse_refresh(self, digest: bytes) -> UnauthenticatedError:
        async with self._db.system() as connection:
            row = await connection.fetchrow(
                "SELECT family_id, used_at FROM login_sessions WHERE refresh_hash = $1", digest
            )
            if row is not None and row["used_at"] is not None:
                await connection.execute(_REVOKE_FAMILY, row["family_id"], self._clock.now())
                return UnauthenticatedError(
                    "this refresh token was used before, so all sessions of its login were ended; "
                    "log in again", code="token_reused",
                )  # fmt: skip
        return UnauthenticatedError(
            "the refresh token is not valid; log in again", code="token_invalid"
        )

    async def logout(self, claims: Claims) -> None:
        """End the login that a token belongs to."""
        async with self._db.tenant(claims.org_id) as connection:
            await connection.execute(_REVOKE_FAMILY, claims.session_id, self._clock.now())

    async def change_password(self, principal: Principal, current: str, new: str) -> None:
        """Set a new password and end the user's other sessions.

        Raises:
            UnauthenticatedError: ``invalid_credentials``: the current one is wrong.
            InvalidError: the new one breaks a rule.
        """
        async with self._db.tenant(principal.org_id) as connection:
            row = await connection.fetchrow(
                "SELECT email, password_hash FROM users WHERE id = $1", principal.user_id
            )
        if row is None or not await self._passwords.verify(row["password_hash"], current):
            raise UnauthenticatedError(
                "the current password is wrong; try again", code="invalid_credentials"
            )
        check_new(new, row["email"])
        await self._store_password(principal.org_id, principal.user_id, new, chosen=True)
        async with self._db.tenant(principal.org_id) as connection:
            await connection.execute(
                "UPDATE login_sessions SET revoked_at = $3 WHERE user_id = $1 AND family_id <> $2"
                " AND revoked_at IS NULL",
                principal.user_id, principal.session_id, self._clock.now(),
            )  # fmt: skip

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

    async def _open(self, user: Any, family_id: UUID, client: Client) -> Login:
        """A session row and its two tokens. ``sid`` is the family: revoking it ends them all."""
        refresh_token, now = f"rt_{secrets.token_urlsafe(32)}", self._clock.now()
        async with self._db.tenant(user["org_id"]) as connection:
            await connection.execute(
                _NEW_SESSION, new_id(), user["org_id"], user["id"], family_id,
                _digest(refresh_token), expiry(now, self._refresh_lifetime), client.ip,
                client.user_agent,
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

    async def _store_password(
        self, org_id: UUID, user_id: UUID, password: str, *, chosen: bool
    ) -> None:
        """Keep a password's hash; ``chosen`` = by the user, who then need not change it."""
        hashed = await self._passwords.hash(password)
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_KEEP_HASH, user_id, hashed, chosen)


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
