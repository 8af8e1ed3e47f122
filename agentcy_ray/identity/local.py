"""The local identity provider: e-mail and password, sessions of ours, a JWT on each request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from agentcy_ray.core.errors import (
    BadRequestError,
    InvalidError,
    RefusedError,
    UnauthenticatedError,
)
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.identity.passwords import Passwords, check_new
from agentcy_ray.identity.provider import Identified, ProviderName
from agentcy_ray.identity.sessions import (
    KEEP_HASH,
    REVOKE_OTHERS,
    TAKE_USER,
    Account,
    Client,
    Login,
    Sessions,
    disabled,
)
from agentcy_ray.identity.tokens import ISSUER

ORGS_TRIED = 4
"""Accounts of one e-mail, the oldest first, that a password is tried on."""

_FIND_USER = f"""
SELECT u.id, u.org_id, u.password_hash, u.active
FROM users u JOIN organizations o ON o.id = u.org_id AND o.deleted_at IS NULL
WHERE lower(u.email) = lower($1) AND ($2::text IS NULL OR o.name = $2)
  AND u.auth_provider = 'local'
ORDER BY u.created_at, u.id LIMIT {ORGS_TRIED}
"""
_ORG = """
SELECT id FROM organizations WHERE deleted_at IS NULL AND ($1::text IS NULL OR name = $1) LIMIT 2
"""


class LocalIdentity(Sessions):
    """Logins of people whose password we keep, and the sessions of all logins."""

    @cached_property
    def _passwords(self) -> Passwords:
        return Passwords()

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
        # In lower case as tries are counted: the database may fold further letters into one.
        async with self._db.system() as connection:
            rows = await connection.fetch(_FIND_USER, email.lower(), org)
        row = await self._whose(rows, password)
        if not row["active"]:
            raise disabled()
        stored, renewed = row["password_hash"], None
        if self._passwords.outdated(stored):
            renewed = await self._passwords.hash(password)
        login = await self._open(row["org_id"], row["id"], client, verified=stored, renewed=renewed)
        if login is None:  # it was changed meanwhile, so the new one decides
            return await self.login(email, password, org, client)
        return login

    async def _whose(self, rows: Sequence[Any], password: str) -> Any:
        """The one account that the password belongs to.

        Raises:
            UnauthenticatedError, BadRequestError: as ``login``. That an e-mail is known to several
                organisations is said to who knows a password of it, and to nobody else.
        """
        stored = [row["password_hash"] for row in rows] or [None]
        good = await asyncio.gather(*(self._passwords.verify(one, password) for one in stored))
        if not any(good):
            raise UnauthenticatedError(
                "wrong e-mail or password; try again", code="invalid_credentials"
            )
        if len(rows) > 1:
            raise BadRequestError(
                "this e-mail exists in several organisations; send `org` too", code="org_required"
            )
        return rows[0]

    async def account_of(self, email: str, org: str | None = None) -> Account | None:
        """Whose log a refused login by this e-mail belongs into; not for the one who tried.

        An e-mail that nobody has is the business of the organisation that was named, or of the only
        one there is.
        """
        async with self._db.system() as connection:  # both, so that it takes as long for anybody
            rows = await connection.fetch(_FIND_USER, email.lower(), org)
            orgs = await connection.fetch(_ORG, org)
        if len(rows) == 1:
            return Account(rows[0]["org_id"], rows[0]["id"])
        return Account(orgs[0]["id"], None) if not rows and len(orgs) == 1 else None

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
        stored = None if row is None else row["password_hash"]
        if row is None or not await self._passwords.verify(stored, current):
            raise _current_wrong()
        if new == current:
            raise InvalidError("the new password is the current one; choose another")
        check_new(new, row["email"])
        hashed = await self._passwords.hash(new)
        async with self._db.tenant(principal.org_id) as connection:
            user = await connection.fetchrow(TAKE_USER, principal.user_id)
            if user is None or user["password_hash"] != stored:
                raise _current_wrong()
            await connection.execute(KEEP_HASH, principal.user_id, hashed, True)
            await connection.execute(
                REVOKE_OTHERS, principal.user_id, principal.session_id, self._clock.now()
            )


def _current_wrong() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the current password is wrong; try again", code="invalid_credentials"
    )
