"""The people of an OIDC issuer as rows of ours: found by (issuer, subject), made at a first login.

An e-mail never identifies anybody here: an issuer could be made to send any, and who holds an
account with a password would lose it to whoever registers that address elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from agentcy_ray.core.errors import ConflictError, NotFoundError, RefusedError
from agentcy_ray.core.ids import decode
from agentcy_ray.core.tenancy import Principal, Role, highest
from agentcy_ray.identity.members import NewUser, add_user
from agentcy_ray.identity.oidc_claims import Person
from agentcy_ray.identity.sessions import Account
from agentcy_ray.stores.postgres import Database

log = structlog.get_logger(__name__)

FoundOrg = Callable[[Any, str], Awaitable[UUID]]
"""(connection of a system transaction, display name) → a new organisation with nobody in it."""

_ORG = "SELECT id FROM organizations WHERE deleted_at IS NULL AND (id = $1 OR name = $2)"
_USER = """
SELECT u.id, u.org_id, u.email, u.roles, u.permissions, u.realms, u.external_id, u.active
FROM users u JOIN organizations o ON o.id = u.org_id AND o.deleted_at IS NULL
WHERE u.issuer = $1 AND u.external_id = $2 AND ($3::uuid IS NULL OR u.org_id = $3)
ORDER BY u.created_at LIMIT 1
"""
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
# As ``Users`` does: of two that would leave nobody, the second sees what the first did.
_OWNERS = """
SELECT id FROM users WHERE org_id = $1 AND 'owner' = ANY(roles) AND active
ORDER BY id FOR UPDATE
"""
_SET_ROLE = """
UPDATE users u SET roles = ARRAY[$2::text] WHERE u.id = $1 AND NOT (
  'owner' = ANY(u.roles) AND $2 <> 'owner' AND NOT EXISTS (
    SELECT 1 FROM users o
    WHERE o.org_id = u.org_id AND o.id <> u.id AND o.active AND 'owner' = ANY(o.roles)))
RETURNING roles
"""


@dataclass(frozen=True)
class Admitted:
    """A person's row, and the role that their token gives them."""

    user: Any
    role: Role

    def principal(self) -> Principal:
        """The one who acts when a token of the issuer is sent with a request."""
        user = self.user
        return Principal(
            user_id=user["id"],
            org_id=user["org_id"],
            role=self.role,
            permissions=tuple(user["permissions"]),
            realms=None if user["realms"] is None else tuple(user["realms"]),
            auth="oidc",
            external_id=user["external_id"],
        )


class OidcUsers:
    """Finds and makes users of one issuer."""

    def __init__(self, db: Database, found_org: FoundOrg | None) -> None:
        """``found_org``: founds an organisation for who comes without the claim; None = refuse."""
        self._db = db
        self._found_org = found_org

    async def admit(self, person: Person, *, store_role: bool = False) -> Admitted:
        """The user of verified claims, made when this is their first login.

        Args:
            person: what the claims say.
            store_role: keep the claimed role, as a login does; a request's token counts for itself.

        Raises:
            RefusedError: no organisation is named or it is not here, the first login brings no
                e-mail, or the account is disabled (``account_disabled``).
            ConflictError: the e-mail belongs to another account of the organisation.
        """
        async with self._db.system() as connection:
            org_id = await self._named(connection, person)
            user = await _find(connection, person, org_id)
            if user is None:
                # Two first requests at once must not make two users, or two organisations.
                await connection.execute(_ONE_AT_A_TIME, f"{person.issuer}\n{person.subject}")
                user = await _find(connection, person, org_id)
            if user is None:
                await self._add(connection, person, org_id)
                user = await _find(connection, person, org_id)
                log.info("first login by OIDC", user_id=str(user["id"]))
            if not user["active"]:
                raise RefusedError(
                    "this account is disabled; ask an admin to enable it", code="account_disabled"
                )
            # A role counts in the organisation that the issuer names beside it, and in no other.
            claimed = person.role if org_id is not None else None
            role = claimed or highest(user["roles"])
            if store_role and role is not highest(user["roles"]):
                role = await _store_role(connection, user, role)
        return Admitted(user, role)

    async def account_of(self, person: Person) -> Account | None:
        """Whose log a refused login belongs into: that of the organisation it was for."""
        async with self._db.system() as connection:
            org_id = None if person.org is None else await _org_of(connection, person.org)
            user = await _find(connection, person, org_id)
        if user is not None:
            return Account(user["org_id"], user["id"])
        return None if org_id is None else Account(org_id, None)

    async def _named(self, connection: Any, person: Person) -> UUID | None:
        """The organisation that the claim names; None when there is none and none is needed."""
        if person.org is None:
            if self._found_org is None:
                raise _nowhere()
            return None
        found = await _org_of(connection, person.org)
        if found is None:
            raise RefusedError(
                "the organisation that the identity provider names for you is not here; ask its "
                "operator to correct the claim"
            )
        return found

    async def _add(self, connection: Any, person: Person, org_id: UUID | None) -> None:
        if person.email is None:
            raise RefusedError(
                "a first login needs an e-mail, and the token has none; log in by the browser "
                "once, or let the identity provider add the claim `email`"
            )
        role = person.role or Role.MEMBER
        if org_id is None:
            if self._found_org is None:
                raise _nowhere()
            org_id = await self._found_org(connection, person.name or person.email)
            role = Role.OWNER
        new = NewUser(
            person.email, person.name, role, issuer=person.issuer, external_id=person.subject
        )
        try:
            await add_user(connection, org_id, new)
        except asyncpg.UniqueViolationError as error:
            raise ConflictError(
                "this e-mail already has an account here that logs in another way; log in that "
                "way, or ask an admin to delete that account"
            ) from error


async def _org_of(connection: Any, text: str) -> UUID | None:
    """The organisation of a name or a public id; those two cannot be mistaken for each other."""
    try:
        by_id = decode("org", text)
    except NotFoundError:
        by_id = None
    found: UUID | None = await connection.fetchval(_ORG, by_id, text)
    return found


async def _find(connection: Any, person: Person, org_id: UUID | None) -> Any:
    return await connection.fetchrow(_USER, person.issuer, person.subject, org_id)


async def _store_role(connection: Any, user: Any, role: Role) -> Role:
    """Keep the claimed role; an organisation's last owner stays its owner."""
    await connection.fetch(_OWNERS, user["org_id"])
    changed = await connection.fetchval(_SET_ROLE, user["id"], role.value)
    if changed is None:
        log.warning("the last owner keeps that role", user_id=str(user["id"]), claimed=role.value)
        return Role.OWNER
    return role


def _nowhere() -> RefusedError:
    return RefusedError(
        "the identity provider names no organisation for you; ask its operator to add the claim of "
        "OIDC_CLAIM_ORG_ID"
    )
