"""Adding a person to an organisation: by first boot, registration, invite or OIDC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Role

_NEW_USER = """
INSERT INTO users (id, org_id, email, name, roles, auth_provider, password_hash,
                   must_change_password, issuer, external_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


@dataclass(frozen=True)
class NewUser:
    """A person to add: by a password's hash, or by the issuer and subject of an OIDC login."""

    email: str
    name: str
    role: Role
    password_hash: str | None = None
    must_change_password: bool = False
    issuer: str | None = None
    external_id: str | None = None


async def add_user(connection: Any, org_id: UUID, user: NewUser) -> UUID:
    """Add a person; the e-mail must be free in the organisation.

    Raises:
        asyncpg.UniqueViolationError: it is not, or the (issuer, subject) is there already.
    """
    user_id = new_id()
    await connection.execute(
        _NEW_USER, user_id, org_id, user.email, user.name, [user.role.value],
        "local" if user.issuer is None else "oidc", user.password_hash, user.must_change_password,
        user.issuer, user.external_id,
    )  # fmt: skip
    return user_id
