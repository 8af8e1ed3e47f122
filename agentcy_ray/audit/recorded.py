"""Reading recorded policy inputs back, a stretch of the log at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from agentcy_ray.stores.postgres import Database

PAGE = 1000

_STRETCH = """
SELECT min(seq) AS first, max(seq) AS last FROM audit_log
WHERE org_id = $1 AND ts >= $2 AND ts < $3
"""
_INPUTS = """
SELECT seq, ts, input FROM audit_log
WHERE org_id = $1 AND seq BETWEEN $2 AND $3 AND ts >= $4 AND ts < $5 AND input IS NOT NULL
ORDER BY seq LIMIT $6
"""
_NEWEST = """
SELECT seq, ts, input FROM audit_log
WHERE org_id = $1 AND ts >= $2 AND ts < $3 AND input IS NOT NULL ORDER BY seq DESC LIMIT $4
"""

Row = tuple[int, datetime, dict[str, Any]]
"""``seq``, time and input of an entry."""


class Stretch(NamedTuple):
    """Entries ``first`` to ``last``, both included, of the time ``since`` ≤ ts < ``until``."""

    first: int
    last: int
    since: datetime
    until: datetime

    def cut(self, size: int) -> list[Stretch]:
        """The stretch in pieces of ``size`` entries at most."""
        starts = range(self.first, self.last + 1, size)
        return [
            Stretch(start, min(start + size - 1, self.last), self.since, self.until)
            for start in starts
        ]


async def stretch_of(
    db: Database, org_id: UUID, since: datetime, until: datetime
) -> Stretch | None:
    """The entries of a time, None when there are none."""
    async with db.tenant(org_id) as connection:
        row = await connection.fetchrow(_STRETCH, org_id, since, until)
    if row is None or row["first"] is None:
        return None
    return Stretch(row["first"], row["last"], since, until)


async def inputs_in(db: Database, org_id: UUID, stretch: Stretch) -> AsyncIterator[list[Row]]:
    """The inputs of a stretch, oldest first, a page at a time."""
    first = stretch.first
    while first <= stretch.last:
        async with db.tenant(org_id) as connection:
            rows = await connection.fetch(
                _INPUTS, org_id, first, stretch.last, stretch.since, stretch.until, PAGE
            )
        if not rows:
            return
        yield [(row["seq"], row["ts"], row["input"]) for row in rows]
        first = rows[-1]["seq"] + 1


async def newest_inputs(
    db: Database, org_id: UUID, since: datetime, until: datetime, limit: int
) -> list[Row]:
    """The newest inputs of a time, newest first."""
    async with db.tenant(org_id) as connection:
        rows = await connection.fetch(_NEWEST, org_id, since, until, limit)
    return [(row["seq"], row["ts"], row["input"]) for row in rows]
