"""How a person comes to have an account: by an invite, or by founding an organisation.

Whatever is wrong, an answer that is given at all takes the time of a password's hash, so that
neither invites nor e-mails can be told by a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.api.founding import found_org
from agentcy_ray.core.errors import ConflictError, InvalidError
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.invites import Invites, closed
from agentcy_ray.identity.members import NewUser, add_user
from agentcy_ray.identity.passwords import Passwords, check_new
from agentcy_ray.stores.postgres import Database

_LIMIT = "UPDATE users SET realms = $2 WHERE id = $1"
_JOINED = "UPDATE invites SET accepted_by = $2 WHERE id = $1"
_NAME = "SELECT name FROM organizations WHERE id = $1"


class Registration(BaseModel):
    """Who wants to join: ``invite_token`` from the link, or ``org_name`` of what to found."""

    model_config = ConfigDict(extra="forbid")

    email: str = Field(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")
    password: str = Field(min_length=1, max_length=256, repr=False)
    name: str = Field(default="", max_length=200)
    org_name: str | None = Field(default=None, min_length=1, max_length=200)
    invite_token: str | None = Field(default=None, min_length=8, max_length=256, repr=False)


@dataclass(frozen=True)
class Joined:
    """A new user, and where."""

    org_id: UUID
    org_name: str
    user_id: UUID
    role: Role
    invited: bool


class Registrar:
    """Lets people in as the install's ``AUTH_REGISTRATION`` says."""

    def __init__(self, db: Database, settings: Settings, invites: Invites) -> None:
        self._db = db
        self._settings = settings
        self._invites = invites
        self._passwords = Passwords()

    async def join(self, wanted: Registration) -> Joined:
        """Make the user, and without an invite their organisation.

        Raises:
            RefusedError: ``registration_closed``.
            InvalidError: the password breaks a rule, or no organisation is named.
            ConflictError: the organisation has a user with this e-mail.
        """
        mode = self._settings.auth_registration
        by_password = "local" in self._settings.auth_provider
        if not by_password or mode == "off" or (wanted.invite_token is None and mode != "open"):
            raise closed()
        check_new(wanted.password, wanted.email)
        if wanted.invite_token is None and wanted.org_name is None:
            raise InvalidError("name the organisation to found as `org_name`")
        hashed = await self._passwords.hash(wanted.password)
        try:
            async with self._db.system() as connection:
                if wanted.invite_token is None:
                    return await self._found(connection, wanted, hashed)
                return await self._accept(connection, wanted, wanted.invite_token, hashed)
        except asyncpg.UniqueViolationError:
            raise ConflictError(
                "a user with this e-mail is in the organisation already; log in"
            ) from None

    async def _found(self, connection: Any, wanted: Registration, hashed: str) -> Joined:
        display = wanted.org_name or ""
        org_id = await found_org(connection, display, context_engine=self._settings.context_engine)
        owner = NewUser(wanted.email, wanted.name, Role.OWNER, hashed)
        user_id = await add_user(connection, org_id, owner)
        name = await connection.fetchval(_NAME, org_id)
        return Joined(org_id, name, user_id, Role.OWNER, invited=False)

    async def _accept(
        self, connection: Any, wanted: Registration, token: str, hashed: str
    ) -> Joined:
        invite = await self._invites.accept(connection, token, wanted.email)
        member = NewUser(wanted.email, wanted.name, invite.role, hashed)
        user_id = await add_user(connection, invite.org_id, member)
        await connection.execute(_JOINED, invite.id, user_id)
        if invite.realms is not None:
            await connection.execute(_LIMIT, user_id, invite.realms)
        return Joined(invite.org_id, invite.org_name, user_id, invite.role, invited=True)
