"""Reservations that lost their process: settled by the turn that is stored, else given back.

Two find them: who takes a run or a backfill over, and a sweep. The sweep is fenced by the run's own
lease: what a live owner holds is never touched, however long its turn takes. Should an owner come
back after all and settle, what it used is counted then, once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from agentcy_ray.budgets.amounts import Spent
from agentcy_ray.budgets.records import Closing
from agentcy_ray.core.events import Usage
from agentcy_ray.stores.postgres import Database

CloseOne = Callable[[UUID, UUID, Closing, Spent], Awaitable[bool]]
"""Closes (org, reservation); whether this was its end."""
BATCH = 1000
ENDED_SECS = 60.0
"""After a run has ended for so long its owner settles nothing more."""

# The turn was stored, and nothing was settled for it since it was reserved: an earlier try that was
# cut off has been settled before that.
_STORED = """
LEFT JOIN run_turns t ON t.run_id = r.run_id AND t.turn = r.turn AND NOT EXISTS (
  SELECT 1 FROM budget_entries e
  WHERE e.run_id = r.run_id AND e.turn = r.turn AND e.kind IN ('settled', 'late')
    AND e.at > r.created_at)
"""
_FORMER = f"""
SELECT r.org_id, r.id, t.usage FROM budget_reservations r {_STORED}
WHERE (r.run_id = $1 OR r.holder = $1) AND r.epoch < $2 ORDER BY r.created_at
"""
_LOST = f"""
SELECT r.org_id, r.id, t.usage
FROM budget_reservations r LEFT JOIN runs u ON u.id = r.run_id {_STORED}
WHERE ($1::uuid IS NULL OR r.org_id = $1)
  AND (r.expires_at < clock_timestamp()
       OR u.ended_at < clock_timestamp() - make_interval(secs => {ENDED_SECS}))
  AND NOT coalesce(u.status IN ('running', 'waiting_approval') AND u.epoch = r.epoch
                   AND u.lease_until > clock_timestamp(), false)
ORDER BY r.expires_at LIMIT {BATCH}
"""


class Recovery:
    """Closes what nobody else will.

    Args:
        db: where reservations and runs are.
        close: closes one.
    """

    def __init__(self, db: Database, close: CloseOne) -> None:
        self._db = db
        self._close = close

    async def take_over(self, org_id: UUID, holder: UUID, epoch: int) -> int:
        """Close what former owners of a run or a holder hold; the number.

        Args:
            org_id: of the run.
            holder: the run, or the ``Scope.holder``.
            epoch: of its owner now; what it holds itself stays.
        """
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_FORMER, holder, epoch)
        return await self._end(rows, "released")

    async def sweep(self, org_id: UUID | None = None) -> int:
        """Close what has expired, of one organisation or of all; the number."""
        if org_id is not None:
            async with self._db.tenant(org_id) as connection:
                rows = await connection.fetch(_LOST, org_id)
            return await self._end(rows, "expired")
        total = 0
        while True:
            async with self._db.system() as connection:
                rows = await connection.fetch(_LOST, None)
            closed = await self._end(rows, "expired")
            total += closed
            if len(rows) < BATCH or not closed:
                return total

    async def _end(self, rows: Sequence[Any], otherwise: Closing) -> int:
        closed = 0
        for row in rows:
            if row["usage"] is None:
                closed += await self._close(row["org_id"], row["id"], otherwise, Spent())
            else:
                spent = Spent.of(Usage.model_validate(row["usage"]))
                closed += await self._close(row["org_id"], row["id"], "settled", spent)
        return closed
