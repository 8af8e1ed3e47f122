"""Realms: the domains that an organisation's graph is cut into."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.errors import ConflictError, NotFoundError, RateLimitedError
from agentcy_ray.stores.postgres import Database

MAX_REALMS = 100
_COLUMNS = "SELECT name, description, built_in, link_rules, created_at FROM realms "
_BUILT_IN = "SELECT built_in FROM realms WHERE name = $1"
_IN_USE = "SELECT count(*) FROM sources WHERE realm = $1"


class LinkRule(BaseModel):
    """Join entities of different sources whose properties are equal, case-folded."""

    model_config = ConfigDict(extra="forbid")

    from_label: str
    from_property: str
    to_label: str
    to_property: str
    type: str = Field(pattern="^[A-Z][A-Z0-9_]*$")


class NewRealm(BaseModel):
    """A realm to make."""

    name: str = Field(pattern="^[a-z][a-z0-9_-]{0,47}$")
    description: str = Field(default="", max_length=500)
    link_rules: list[LinkRule] = Field(default_factory=list[LinkRule], max_length=50)


class RealmChange(BaseModel):
    """What to change of a realm; absent fields stay."""

    description: str | None = Field(default=None, max_length=500)
    link_rules: list[LinkRule] | None = Field(default=None, max_length=50)


class Realm(NewRealm):
    """A realm as it is."""

    built_in: bool
    created_at: datetime


class Realms:
    """The realms of organisations."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def names(self, org_id: UUID) -> set[str]:
        """All names."""
        async with self._db.tenant(org_id) as connection:
            return {row["name"] for row in await connection.fetch("SELECT name FROM realms")}

    async def list(self, org_id: UUID, limit: int, after: str | None) -> list[Realm]:
        """Realms by name, after one."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(
                _COLUMNS + "WHERE $1::text IS NULL OR name > $1 ORDER BY name LIMIT $2",
                after, limit,
            )  # fmt: skip
        return [Realm(**dict(row)) for row in rows]

    async def create(self, org_id: UUID, realm: NewRealm) -> Realm:
        """Make a realm.

        Raises:
            ConflictError: the name is taken.
            RateLimitedError: ``quota_exceeded``.
        """
        async with self._db.tenant(org_id) as connection:
            if await connection.fetchval("SELECT count(*) FROM realms") >= MAX_REALMS:
                raise RateLimitedError(
                    f"an organisation has {MAX_REALMS} realms at most; delete one first",
                    code="quota_exceeded",
                )
            row = await connection.fetchrow(
                "INSERT INTO realms (org_id, name, description, link_rules) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT DO NOTHING RETURNING *",
                org_id, realm.name, realm.description, _rules(realm.link_rules),
            )  # fmt: skip
        if row is None:
            raise ConflictError(f"realm {realm.name!r} exists already; PATCH it instead")
        return _realm(row)

    async def change(self, org_id: UUID, name: str, change: RealmChange) -> Realm:
        """Change description or link rules.

        Raises:
            NotFoundError: there is no such realm.
        """
        rules = None if change.link_rules is None else _rules(change.link_rules)
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(
                "UPDATE realms SET description = coalesce($2, description),"
                " link_rules = coalesce($3, link_rules) WHERE name = $1 RETURNING *",
                name, change.description, rules,
            )  # fmt: skip
        if row is None:
            raise NotFoundError(f"there is no realm {name!r}; GET /realms lists them")
        return _realm(row)

    async def delete(self, org_id: UUID, name: str) -> None:
        """Delete a realm that nothing uses.

        Raises:
            NotFoundError: there is no such realm.
            ConflictError: ``realm_in_use``, or it is built in.
        """
        async with self._db.tenant(org_id) as connection:
            built_in = await connection.fetchval(
                "SELECT built_in FROM realms WHERE name = $1", name
            )
            if built_in is None:
                raise NotFoundError(f"there is no realm {name!r}; GET /realms lists them")
            if built_in:
                raise ConflictError(f"realm {name!r} is built in; it stays")
            if await connection.fetchval(_IN_USE, name):
                raise ConflictError(
                    f"realm {name!r} has sources; move or delete them first", code="realm_in_use"
                )
            try:
                await connection.execute("DELETE FROM realms WHERE name = $1", name)
            except asyncpg.ForeignKeyViolationError:
                raise ConflictError(
                    f"realm {name!r} has conversations; move or delete them first",
                    code="realm_in_use",
                ) from None


def _rules(rules: list[LinkRule]) -> list[dict[str, Any]]:
    return [rule.model_dump() for rule in rules]


def _realm(row: Any) -> Realm:
    return Realm(
        name=row["name"],
        description=row["description"],
        built_in=row["built_in"],
        link_rules=row["link_rules"],
        created_at=row["created_at"],
    )
