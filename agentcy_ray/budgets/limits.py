"""Limits: what an organisation has set, read on every reservation and changed now and then."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agentcy_ray.budgets.amounts import EACH, Draw, Level, Scope, Unit, shown, whole
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import decode, encode, new_id
from agentcy_ray.core.org_cache import OrgCache
from agentcy_ray.stores.bell import Bell, Ear
from agentcy_ray.stores.postgres import Database

SOFT_SHARE = 0.8
"""Of the hard limit, where nobody says otherwise."""

_ACTIVE = "SELECT scope, subject, unit FROM budget_limits"
_LIST = """
SELECT l.scope, l.subject, l.unit, l.hard, l.soft_share, l.updated_at,
  coalesce(b.spent, 0) AS spent, coalesce(b.reserved, 0) AS reserved,
  coalesce(b.raised, false) AS raised,
  (l.subject <> '*' OR l.scope = 'org') AND (b.seeded_at IS NULL OR b.seeded_at < l.created_at)
    AND (l.created_at AT TIME ZONE coalesce(o.settings->>'timezone', 'UTC'))::date
      >= budget_day(l.org_id) AS fresh
FROM budget_limits l JOIN organizations o ON o.id = l.org_id
LEFT JOIN budget_balances b ON b.org_id = l.org_id AND b.scope = l.scope AND b.unit = l.unit
  AND b.subject = l.subject AND b.period = budget_day(l.org_id)::text
  AND (l.subject <> '*' OR l.scope = 'org')
ORDER BY array_position(ARRAY['org', 'user', 'agent', 'run'], l.scope), l.subject, l.unit
"""
# Of a limit that was set today and that nothing has drawn on yet, as the first draw will count it.
_USED = "SELECT budget_used($1, $2, $3, $4, $5, budget_day($1))"
_PUT = """
INSERT INTO budget_limits (id, org_id, scope, subject, unit, hard, soft_share, updated_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (org_id, scope, subject, unit) DO UPDATE SET
  hard = excluded.hard, soft_share = excluded.soft_share, updated_by = excluded.updated_by
"""
_REMOVE = "DELETE FROM budget_limits WHERE scope = $1 AND subject = $2 AND unit = $3"
_ZONE = "SELECT coalesce(settings->>'timezone', 'UTC') FROM organizations WHERE id = $1"
_SET_ZONE = """
UPDATE organizations SET settings = settings || jsonb_build_object('timezone', $2::text)
WHERE id = $1
"""
_PERSON = "SELECT 1 FROM users WHERE id = $1"


class LimitChange(BaseModel):
    """A limit to be set, or removed when ``hard`` is null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Level
    subject: str = Field(
        default=EACH, max_length=100,
        description="usr_… of a user, name of an agent; * = each of them, and the organisation",
    )  # fmt: skip
    unit: Unit = "usd"
    hard: float | None = Field(
        ge=0, le=1e9, description="Of a day, of a whole run in scope run; null removes the limit."
    )
    soft_share: float | None = Field(
        default=SOFT_SHARE, gt=0, le=1,
        description="Share of `hard` from which on a person is asked; null = nobody is.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _subject_fits(self) -> LimitChange:
        if self.scope in ("org", "run") and self.subject != EACH:
            raise ValueError(f"a limit of scope {self.scope!r} has no subject but '*'")
        if self.scope == "user" and self.subject != EACH and not self.subject.startswith("usr_"):
            raise ValueError("the subject of a user's limit is the user's id, usr_…, or '*'")
        return self


class BudgetChange(BaseModel):
    """Limits to be set or removed; those that are not named stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: tuple[LimitChange, ...] = Field(default=(), max_length=200)
    timezone: str | None = Field(
        default=None, max_length=64, description="Where the organisation's day begins."
    )

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError) as error:
                raise ValueError(f"no time zone {name!r}; write one as Europe/Zurich") from error
        return name


class Limit(BaseModel):
    """A limit in force, with what is used of it today where it is one subject's."""

    model_config = ConfigDict(frozen=True)

    scope: Level
    subject: str
    unit: Unit
    hard: float
    soft_share: float | None
    spent: float
    reserved: float
    raised: bool
    """Whether a person let today go on beyond the soft limit."""
    updated_at: datetime


class Budgets(BaseModel):
    """Everything that an organisation has set."""

    model_config = ConfigDict(frozen=True)

    timezone: str
    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class Watched:
    """Which balances an organisation's limits ask for."""

    by_level: dict[Level, dict[str, frozenset[Unit]]]
    """Level → subject or ``*`` → units."""

    def units(self, level: Level, subject: str) -> frozenset[Unit]:
        """The units in which ``subject`` is limited."""
        subjects = self.by_level.get(level)
        if subjects is None:
            return frozenset()
        return subjects.get(subject, frozenset()) | subjects.get(EACH, frozenset())

    def draws(self, scope: Scope) -> list[Draw]:
        """Every balance that ``scope`` draws on."""
        if not self.by_level:
            return []
        subjects: list[tuple[Level, str, UUID | None]] = [("org", EACH, None)]
        if scope.user_id is not None:
            subjects.append(("user", encode("usr", scope.user_id), scope.user_id))
        if scope.agent:
            subjects.append(("agent", scope.agent, None))
        if scope.run_id is not None:
            subjects.append(("run", encode("run", scope.run_id), scope.run_id))
        return [
            Draw(level, subject, id_, unit)
            for level, subject, id_ in subjects
            for unit in sorted(self.units(level, subject))
        ]


class LimitStore:
    """The limits of all organisations; what is watched is kept, and a change is rung.

    Args:
        db: where they are.
        bell: tells every process of a change; without it they look every few seconds.
    """

    def __init__(self, db: Database, bell: Bell | None = None) -> None:
        self._db = db
        self._bell = bell
        self._watched = OrgCache[Watched](self._load, listen=self._listen if bell else None)

    async def watched(self, org_id: UUID) -> Watched:
        """What is limited in an organisation; from memory as a rule."""
        return await self._watched.get(org_id)

    async def get(self, org_id: UUID) -> Budgets:
        """The limits in force and what is used of them.

        Raises:
            NotFoundError: no such organisation.
        """
        async with self._db.tenant(org_id) as connection:
            zone = await connection.fetchval(_ZONE, org_id)
            if zone is None:
                raise NotFoundError("no such organisation")
            limits: list[Limit] = []
            for row in await connection.fetch(_LIST):
                spent: int = row["spent"]
                if row["fresh"]:
                    scope, subject = row["scope"], row["subject"]
                    id_ = decode("usr", subject) if scope == "user" else None
                    used = await connection.fetchval(
                        _USED, org_id, scope, subject, id_, row["unit"]
                    )
                    spent = max(spent, used)
                limits.append(_limit(row, spent))
        return Budgets(timezone=zone, limits=tuple(limits))

    async def change(self, org_id: UUID, change: BudgetChange, by: UUID | None) -> Budgets:
        """Set and remove limits, all or none; every process goes by them at once.

        Raises:
            NotFoundError: a limit is for a user who is not there.
        """
        async with self._db.tenant(org_id) as connection:
            if change.timezone is not None:
                await connection.execute(_SET_ZONE, org_id, change.timezone)
            for limit in change.limits:
                await _put(connection, org_id, limit, by)
        self._watched.expire(org_id)
        if self._bell is not None:
            await self._bell.ring(_channel(org_id), {})
        return await self.get(org_id)

    async def close(self) -> None:
        """Stop listening."""
        await self._watched.close()

    async def _load(self, org_id: UUID, _: Watched | None) -> Watched:
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_ACTIVE)
        by_level: dict[Level, dict[str, frozenset[Unit]]] = {}
        for row in rows:
            subjects = by_level.setdefault(row["scope"], {})
            subjects[row["subject"]] = subjects.get(row["subject"], frozenset()) | {row["unit"]}
        return Watched(by_level)

    def _listen(self, org_id: UUID) -> AbstractAsyncContextManager[Ear]:
        assert self._bell is not None
        return self._bell.listen(_channel(org_id))


async def _put(connection: Any, org_id: UUID, limit: LimitChange, by: UUID | None) -> None:
    if limit.hard is None:
        await connection.execute(_REMOVE, limit.scope, limit.subject, limit.unit)
        return
    if limit.scope == "user" and limit.subject != EACH:
        found = await connection.fetchval(_PERSON, decode("usr", limit.subject))
        if found is None:
            raise NotFoundError(f"there is no user {limit.subject}")
    await connection.execute(
        _PUT, new_id(), org_id, limit.scope, limit.subject, limit.unit,
        whole(limit.unit, limit.hard), limit.soft_share, by,
    )  # fmt: skip


def _limit(row: Any, spent: int) -> Limit:
    unit: Unit = row["unit"]
    amounts = {name: shown(unit, row[name]) for name in ("hard", "reserved")}
    return Limit.model_validate({**dict(row), **amounts, "spent": shown(unit, spent)})


def _channel(org_id: UUID) -> str:
    return f"ch:budgets:{org_id.hex}"
