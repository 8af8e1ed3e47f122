"""The lease of a source and its fencing epoch: who may publish, checked at every write.

A publisher writes inside ``Lease.hold``: a transaction that has the engine's writer lock (one
writer at a time per engine) and a share lock on the lease row at its own epoch. A successor raises
the epoch by updating that row, so it waits for the write that is under way, and every later write
of the former owner finds another epoch and is refused. A former owner that hangs inside ``hold`` is
cut off by the server after some lease times and loses the transaction with its locks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import structlog

from agentcy_ray.core.errors import ConflictError, LeaseLostError, StoreUnavailableError
from agentcy_ray.core.states import SOURCE, SYNC_RUN, ends, sources_of

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.postgres import Database

HANG_LEASES = 5
"""An owner that does nothing inside ``hold`` for so many lease times is cut off by the server."""

_log = structlog.get_logger(__name__)

_ACQUIRE = """
INSERT INTO source_leases AS l (source_id, org_id, epoch, owner, run_id, claim, lease_until)
VALUES ($1, $2, 1, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))
ON CONFLICT (source_id) DO UPDATE SET epoch = l.epoch + 1, owner = excluded.owner,
  run_id = excluded.run_id, claim = excluded.claim, lease_until = excluded.lease_until
WHERE l.lease_until IS NULL OR l.lease_until < clock_timestamp()
  OR (l.run_id = excluded.run_id AND l.claim < excluded.claim)
RETURNING epoch
"""
# What a run saw is stamped with its start, and of two sightings the later one counts: so it starts
# after every earlier run of its source, whatever the clock does.
_TAKE_RUN = """
UPDATE sync_runs AS r SET epoch = $2, started_at = coalesce(started_at, greatest(clock_timestamp(),
    (SELECT max(o.started_at) + interval '1 microsecond' FROM sync_runs o
     WHERE o.source_id = r.source_id))),
  status = CASE WHEN status = 'pending' THEN 'running' ELSE status END
WHERE id = $1 AND NOT status = ANY($3) RETURNING status
"""
_TAKE_SOURCE = "UPDATE sources SET status = 'running' WHERE id = $1 AND status = ANY($2)"
_RENEW = """
UPDATE source_leases SET lease_until = clock_timestamp() + make_interval(secs => $3)
WHERE source_id = $1 AND epoch = $2 RETURNING true
"""
_LOCK_ENGINE = """
SELECT set_config('idle_in_transaction_session_timeout', $2, true),
  CASE WHEN $1::text IS NOT NULL THEN pg_advisory_xact_lock(hashtextextended($1, 0)) END
"""
_CHECK = "SELECT true FROM source_leases WHERE source_id = $1 AND epoch = $2 FOR SHARE"
_SAVE = """
UPDATE sync_runs SET publish_cursor =
  coalesce(publish_cursor, '{}') || jsonb_build_object($3::text, $4::jsonb)
WHERE id = $1 AND epoch = $2
"""
_RELEASE = """
UPDATE source_leases SET owner = NULL, lease_until = NULL WHERE source_id = $1 AND epoch = $2
"""


@dataclass(frozen=True)
class Lease:
    """The right to sync one source, as long as nobody holds a higher epoch."""

    db: Database
    org_id: UUID
    source_id: UUID
    run_id: UUID
    epoch: int
    secs: float
    engine_lock: str | None
    """Name of the engine's writer lock; None where an engine takes many writers."""

    @asynccontextmanager
    async def hold(
        self, *, engine: bool = False
    ) -> AsyncGenerator[PoolConnectionProxy[asyncpg.Record]]:
        """A transaction in which this owner, and no successor, may write.

        Args:
            engine: also be the engine's only writer meanwhile.

        Raises:
            LeaseLostError: a newer owner holds the source; nothing may be written.
        """
        async with self.db.tenant(self.org_id) as connection:
            await connection.execute(
                _LOCK_ENGINE,
                self.engine_lock if engine else None,
                str(int(HANG_LEASES * self.secs * 1000)),
            )
            if not await connection.fetchval(_CHECK, self.source_id, self.epoch):
                raise self._lost()
            yield connection

    async def save(
        self, connection: PoolConnectionProxy[asyncpg.Record], part: str, cursor: dict[str, Any]
    ) -> None:
        """Record how far a part of the publish is, inside the transaction of ``hold``."""
        await connection.execute(_SAVE, self.run_id, self.epoch, part, cursor)

    async def check(self) -> None:
        """Make sure that no successor has come.

        Raises:
            LeaseLostError: one has.
        """
        async with self.hold():
            pass

    async def keep(self) -> None:
        """Renew the lease until cancelled.

        Raises:
            LeaseLostError: a newer owner holds the source.
        """
        while True:
            await asyncio.sleep(self.secs / 4)
            try:
                async with self.db.tenant(self.org_id) as connection:
                    mine = await connection.fetchval(_RENEW, self.source_id, self.epoch, self.secs)
            except StoreUnavailableError as error:  # every write is fenced, so waiting is safe
                _log.warning("source_lease_not_renewed", reason=error.message)
                continue
            if not mine:
                raise self._lost()

    async def release(self, connection: PoolConnectionProxy[asyncpg.Record]) -> None:
        """Let the source go, so that the next owner need not wait; the epoch stays."""
        await connection.execute(_RELEASE, self.source_id, self.epoch)

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(
            "another worker has taken over this sync; nothing more is written by this one",
            source_id=str(self.source_id),
            epoch=self.epoch,
        )


async def acquire(
    db: Database,
    org_id: UUID,
    source_id: UUID,
    run_id: UUID,
    *,
    owner: str,
    claim: int,
    secs: float,
    engine_lock: str | None,
) -> tuple[Lease, str] | None:
    """Become the owner of a source for one sync run.

    Args:
        db: Postgres.
        org_id: the organisation.
        source_id: what to own.
        run_id: the sync run that is to be carried out.
        owner: name of the worker, for people.
        claim: grows with each claim of the run's job; a later claim displaces an earlier one.
        secs: how long the lease lasts without renewal.
        engine_lock: name of the engine's writer lock, None without one.

    Returns:
        The lease and the run's status (``running`` or ``publishing``), or None when the run has
        ended already.

    Raises:
        ConflictError: ``sync_in_progress``, a live owner holds the source.
    """
    async with db.tenant(org_id) as connection:
        epoch = await connection.fetchval(_ACQUIRE, source_id, org_id, owner, run_id, claim, secs)
        if epoch is None:
            raise ConflictError(
                "a sync of this source is under way; wait for it, or cancel it first",
                code="sync_in_progress",
            )
        status = await connection.fetchval(_TAKE_RUN, run_id, epoch, sorted(ends(SYNC_RUN)))
        lease = Lease(db, org_id, source_id, run_id, epoch, secs, engine_lock)
        if status is None:
            await lease.release(connection)
            return None
        await connection.execute(_TAKE_SOURCE, source_id, sources_of(SOURCE, "running"))
    return lease, str(status)
