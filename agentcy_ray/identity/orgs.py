"""What an organisation says about itself: its name, what its policies read, how long it keeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import InvalidError, NotFoundError
from agentcy_ray.core.ids import OrgId
from agentcy_ray.identity.revocation import Revocations, Revoked
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

Along = Callable[[Any], Awaitable[None]]
"""Gets the connection of a transaction that it becomes part of."""
MAX_POLICY_SETTINGS = 65_536
"""Bytes as JSON: every policy evaluation carries them."""
_COLUMNS = "id, name, display_name, context_engine, settings, created_at"
_READ = f"SELECT {_COLUMNS} FROM organizations WHERE id = $1 AND deleted_at IS NULL"
_CHANGE = f"""
UPDATE organizations SET display_name = coalesce($2, display_name),
  settings = (settings || $3::jsonb) - $4::text[]
WHERE id = $1 AND deleted_at IS NULL RETURNING {_COLUMNS}
"""


_CLOSE = """
UPDATE organizations SET deleted_at = $2 WHERE id = $1 AND name = $3 AND deleted_at IS NULL
RETURNING true
"""
_END_SESSIONS = "UPDATE login_sessions SET revoked_at = $1 WHERE revoked_at IS NULL"


class Retention(BaseModel):
    """How long things are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    audit_days: int | None = Field(default=None, ge=1, le=36_500)
    """Days that audit entries are kept; null = as long as the install says."""


class OrgSettings(BaseModel):
    """What an organisation has set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy_settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """What its policies read as `data.settings`."""
    retention: Retention = Retention()


class OrgSettingsChange(BaseModel):
    """What to change of the settings; absent parts stay, a given part replaces the former."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy_settings: dict[str, Any] | None = None
    retention: Retention | None = None

    @field_validator("policy_settings")
    @classmethod
    def _is_small(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and len(orjson.dumps(value)) > MAX_POLICY_SETTINGS:
            raise ValueError(f"policy settings have at most {MAX_POLICY_SETTINGS:,} bytes as JSON")
        return value


class Org(BaseModel):
    """An organisation."""

    model_config = ConfigDict(frozen=True)

    id: OrgId
    name: str
    """Its short name, which logins and claims use; it stays."""
    display_name: str
    context_engine: str
    settings: OrgSettings
    created_at: datetime


class Orgs:
    """Rows of ``organizations``, one to each caller."""

    def __init__(self, db: Database, bell: Bell, clock: Clock, revocations: Revocations) -> None:
        self._db = db
        self._bell = bell
        self._clock = clock
        self._revocations = revocations

    async def get(self, org_id: UUID) -> Org:
        """The organisation.

        Raises:
            NotFoundError: it is being deleted.
        """
        async with self._db.tenant(org_id) as connection:
            return _org(await connection.fetchrow(_READ, org_id))

    async def change(
        self, org_id: UUID, display_name: str | None, change: OrgSettingsChange
    ) -> Org:
        """Change what is given; every process goes by it within a second.

        Raises:
            NotFoundError: it is being deleted.
        """
        new: dict[str, Any] = {}
        dropped: list[str] = []
        if change.policy_settings is not None:
            new["policy_settings"] = change.policy_settings
        if change.retention is not None and change.retention.audit_days is not None:
            new["audit_retention_days"] = change.retention.audit_days
        elif change.retention is not None:
            dropped.append("audit_retention_days")
        async with self._db.tenant(org_id) as connection:
            org = _org(await connection.fetchrow(_CHANGE, org_id, display_name, new, dropped))
        await self._bell.ring(f"ch:policy:{org_id.hex}", {})
        return org

    async def close(self, org_id: UUID, confirm: str, along: Along) -> None:
        """Let nobody in any more: logins, keys and ingest tokens end with the organisation.

        Args:
            org_id: whose.
            confirm: its short name, as said by whoever wants this.
            along: runs in the same transaction; asks for the deletion of everything.

        Raises:
            InvalidError: ``confirm`` is not its name, or it is closed already.
        """
        now = self._clock.now()
        async with self._db.tenant(org_id) as connection:
            if not await connection.fetchval(_CLOSE, org_id, now, confirm):
                raise InvalidError("`confirm` must be the organisation's short name; see /auth/me")
            await connection.execute(_END_SESSIONS, now)
            await along(connection)
        await self._revocations.tell(Revoked(org_id=org_id))


def _org(row: Any) -> Org:
    if row is None:
        raise NotFoundError("this organisation is being deleted")
    values = dict(row)
    kept = values.pop("settings")
    settings = OrgSettings(
        policy_settings=kept.get("policy_settings") or {},
        retention=Retention(audit_days=kept.get("audit_retention_days")),
    )
    return Org(settings=settings, **values)
