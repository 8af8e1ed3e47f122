"""What people did in the console: told by the browser in batches, listed for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.ids import UserId, new_id
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.stores.postgres import Database

MAX_EVENTS = 100
"""Of one request."""
KEPT = timedelta(days=90)
ASTRAY = timedelta(hours=1)
"""How far a browser's clock may be from ours before ours counts."""

_INSERT = """
INSERT INTO ui_events (id, org_id, user_id, name, target, at)
SELECT id, $1, $2, name, target, at
FROM unnest($3::uuid[], $4::text[], $5::text[], $6::timestamptz[]) e (id, name, target, at)
"""
_LIST = """
SELECT id, user_id, name, target, at FROM ui_events
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3
"""


class Happened(BaseModel):
    """One thing that the caller did."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, examples=["page.view"])
    target: str = Field(default="", max_length=500, examples=["/settings"])
    at: AwareDatetime


class Activity(BaseModel):
    """One thing that a user did."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    user_id: UserId
    name: str
    target: str
    at: datetime


class Activities:
    """Rows of ``ui_events``."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def note(self, principal: Principal, events: Sequence[Happened]) -> None:
        """Keep what the caller did."""
        now = self._clock.now()
        async with self._db.tenant(principal.org_id) as connection:
            await connection.execute(
                _INSERT, principal.org_id, principal.user_id, [new_id() for _ in events],
                [event.name for event in events], [event.target for event in events],
                [event.at if abs(event.at - now) <= ASTRAY else now for event in events],
            )  # fmt: skip

    async def list(
        self, org_id: UUID, *, user_id: UUID | None = None, limit: int = 50,
        before: UUID | None = None,
    ) -> list[Activity]:  # fmt: skip
        """What was done, newest first; of one user when one is named."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, user_id, before, limit)
        return [Activity(**dict(row)) for row in rows]
