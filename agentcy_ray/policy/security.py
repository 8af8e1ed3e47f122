"""What an organisation has set about approvals: read and changed as a whole or in part."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.tools import Effect
from agentcy_ray.policy.service import OrgRules, Rule
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

_READ = "SELECT settings FROM organizations WHERE id = $1"
_CHANGE = """
UPDATE organizations SET settings = settings || $2::jsonb || CASE WHEN $3::jsonb IS NULL THEN '{}'
  ELSE jsonb_build_object('approval_defaults',
                          coalesce(settings->'approval_defaults', '{}') || $3::jsonb) END
WHERE id = $1 RETURNING settings
"""


class SecuritySettings(BaseModel):
    """The settings in force."""

    model_config = ConfigDict(frozen=True)

    approval_defaults: dict[Effect, Rule]
    """What happens to a call of each effect when no agent or task says otherwise."""
    approval_timeout_secs: int
    approval_second_person: bool
    """Whether nobody may decide about a call of their own."""


class SecurityChange(BaseModel):
    """What to change; absent fields, and absent effects, stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    approval_defaults: dict[Effect, Rule] | None = None
    approval_timeout_secs: int | None = Field(default=None, ge=10, le=604_800)
    approval_second_person: bool | None = None


class SecurityStore:
    """The security settings of all organisations.

    Args:
        db: where they are kept.
        bell: tells every process that keeps an organisation's rules of a change.
        timeout_secs: how long an approval may wait where an organisation has not said.
    """

    def __init__(self, db: Database, bell: Bell, timeout_secs: int) -> None:
        self._db = db
        self._bell = bell
        self._timeout_secs = timeout_secs

    async def get(self, org_id: UUID) -> SecuritySettings:
        """The settings in force.

        Raises:
            NotFoundError: no such organisation.
        """
        async with self._db.tenant(org_id) as connection:
            return self._told(await connection.fetchval(_READ, org_id))

    async def change(self, org_id: UUID, change: SecurityChange) -> SecuritySettings:
        """Change some; every process goes by them within a second.

        Raises:
            NotFoundError: no such organisation.
        """
        given = change.model_dump(mode="json", exclude_none=True)
        defaults = given.pop("approval_defaults", None)
        async with self._db.tenant(org_id) as connection:
            changed = self._told(await connection.fetchval(_CHANGE, org_id, given, defaults))
        await self._bell.ring(f"ch:policy:{org_id.hex}", {})
        return changed

    def _told(self, settings: Any) -> SecuritySettings:
        if settings is None:
            raise NotFoundError("no such organisation")
        rules = OrgRules.model_validate(settings)
        return SecuritySettings(
            approval_defaults={effect: rules.default_of(effect) for effect in Effect},
            approval_timeout_secs=rules.approval_timeout_secs or self._timeout_secs,
            approval_second_person=rules.approval_second_person,
        )
