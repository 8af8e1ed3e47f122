"""How long audit entries are kept: the oldest go by whole days, and the rest still verifies.

Only the database can remove an entry, and only from the oldest end: ``prune_audit`` keeps the last
removed hash as an anchor, which ``AuditLog.verify`` begins from. Each removal is an entry itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.stores.postgres import Database

KIND = "audit_retention"
"""Kind of the job that prunes one organisation's log."""
AHEAD = 2
"""Months that get a partition before they begin."""
ROWS = 10_000
"""Entries removed in one transaction."""

_DAYS = """
SELECT CASE jsonb_typeof(settings->'audit_retention_days')
         WHEN 'number' THEN (settings->'audit_retention_days')::int ELSE $2 END
FROM organizations WHERE id = $1
"""
_PRUNE = "SELECT removed, upto FROM prune_audit($1, $2, $3)"
_MONTHS = """
SELECT count(*) FILTER (WHERE make_audit_month((date_trunc('month', $1::timestamptz AT TIME ZONE
  'UTC') + n * interval '1 month')::date)) FROM generate_series(0, $2::int) n
"""


@dataclass(frozen=True)
class Pruned:
    """What one round removed."""

    entries: int
    upto_seq: int | None
    """The last entry removed, whose hash is the anchor now; None when none was."""


class AuditRetention:
    """Shortens logs. Any number of processes may do it side by side."""

    def __init__(
        self, db: Database, log: AuditLog, default_days: int, clock: Clock | None = None
    ) -> None:
        self._db = db
        self._log = log
        self._default_days = default_days
        self._clock = clock or SystemClock()

    async def prune(
        self, org_id: UUID, told: Callable[[int], None] | None = None, *, rows: int = ROWS
    ) -> Pruned:
        """Remove the entries of ``org_id`` that are older than it keeps them.

        The organisation's setting ``audit_retention_days`` wins over the install's. Days are whole
        ones in UTC; the database keeps at least the last of them, whatever is set.

        Args:
            org_id: whose log.
            told: hears after each transaction how many entries are gone; may raise to stop.
            rows: entries a transaction.

        Raises:
            StoreUnavailableError: Postgres does not answer; what was removed stays so.
        """
        async with self._db.system() as connection:
            days = await connection.fetchval(_DAYS, org_id, self._default_days)
        if days is None:  # the organisation is gone
            return Pruned(0, None)
        before = _midnight(self._clock.now()) - timedelta(days=days)
        entries, upto, more = 0, None, True
        try:
            while more:
                async with self._db.system() as connection:
                    found = await connection.fetchrow(_PRUNE, org_id, before, rows)
                more = found is not None and found["removed"] == rows
                if found is not None:
                    entries, upto = entries + found["removed"], found["upto"]
                    if told is not None:
                        told(entries)
        finally:
            if upto is not None:
                await self._log.append(_witness(org_id, before, entries, upto))
        return Pruned(entries, upto)


class AuditMonths:
    """The partitions of the log, one a month."""

    def __init__(self, db: Database, clock: Clock | None = None) -> None:
        self._db = db
        self._clock = clock or SystemClock()

    async def tend(self) -> None:
        """Make those of the months to come, and drop those that nobody needs any more.

        Raises:
            StoreUnavailableError: Postgres does not answer.
        """
        async with self._db.system() as connection:
            await connection.fetchval(_MONTHS, self._clock.now(), AHEAD)
        async with self._db.system() as connection:
            await connection.fetchval("SELECT drop_audit_months()")


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _witness(org_id: UUID, before: datetime, entries: int, upto_seq: int) -> AuditEntry:
    return AuditEntry(
        org_id=org_id,
        category="admin",
        action="audit.prune",
        decision="allow",
        resource={"type": "audit", "before": before.isoformat()},
        context={"removed": entries, "upto_seq": upto_seq},
    )
