"""What is done from time to time, whoever calls: rows that nobody needs are removed, and clean-ups
that take long are asked for as jobs. Any number of processes may do it side by side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from agentcy_ray.audit.retention import KIND as AUDIT_KIND
from agentcy_ray.audit.retention import AuditMonths
from agentcy_ray.budgets.recovery import Recovery
from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.activity import KEPT as ACTIVITY_KEPT
from agentcy_ray.ingest.retention import PRUNE_KIND, PRUNE_PRIORITY, prune_job
from agentcy_ray.ingest.swap.expiry import drop_expired
from agentcy_ray.jobs.queue import JobQueue
from agentcy_ray.jobs.records import NewJob
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.stores.postgres import Database

FIRST_SECS = 60.0
"""After the start of a process, when the machine has better things to do."""
EVERY_SECS = 3600.0
EVERY_DAY = timedelta(days=1)
ROWS = 5_000
"""Rows deleted in one transaction."""

_log = structlog.get_logger(__name__)

_KEYS = """
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM idempotency_keys WHERE expires_at < $1 LIMIT $2))
"""
_REPLAYS = """
DELETE FROM ingest_replays WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM ingest_replays WHERE expires_at < $1 LIMIT $2))
"""
# An event is never younger than its run's end by more than a moment, so the index on ``at`` finds
# candidates, and the run says whether its log is still promised.
_EVENTS = """
DELETE FROM run_events WHERE ctid = ANY(ARRAY(
  SELECT e.ctid FROM run_events e JOIN runs r ON r.id = e.run_id
  WHERE e.at < $1 AND r.ended_at < $1 LIMIT $2))
"""
_QUERIES = """
DELETE FROM rag_queries WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM rag_queries WHERE last_at < $1 LIMIT $2))
"""
_ACTIVITY = """
DELETE FROM ui_events WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM ui_events WHERE created_at < $1 LIMIT $2))
"""
_SESSIONS = """
DELETE FROM login_sessions WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM login_sessions WHERE expires_at < $1 LIMIT $2))
"""
_NOT_ASKED = """
  AND NOT EXISTS (
    SELECT 1 FROM jobs j WHERE j.org_id = o.id AND j.dedupe_key = $1 AND j.created_at > $2)
"""
_TO_PRUNE = f"""
SELECT o.id FROM organizations o
WHERE EXISTS (SELECT 1 FROM sources s WHERE s.org_id = o.id) {_NOT_ASKED}
"""
# How long a log is kept is its organisation's to say; the job reads it.
_TO_SHORTEN = f"""
SELECT o.id FROM organizations o
WHERE EXISTS (SELECT 1 FROM audit_log a WHERE a.org_id = o.id AND a.ts < $3) {_NOT_ASKED}
"""


@dataclass(frozen=True)
class Done:
    """What one round did."""

    keys: int
    """Idempotency keys that had expired, those of ingest included."""
    events: int
    """Events of runs whose logs are kept no longer."""
    asked: tuple[UUID, ...]
    """Organisations whose archived entities are pruned now."""
    shortened: tuple[UUID, ...]
    """Organisations whose audit logs are looked through for entries past their time."""
    reservations: int = 0
    """Of budgets, that their processes left."""
    queries: int = 0
    """Sampled queries that were asked too long ago."""
    activity: int = 0
    """What people did in the console, too long ago."""
    spaces: int = 0
    """Embedding spaces that could be gone back to, until their grace was over."""
    sessions: int = 0
    """Refresh tokens, used or not, whose time is over."""


class Upkeep:
    """The rounds. Start them with ``tend``."""

    def __init__(
        self,
        db: Database,
        queue: JobQueue,
        settings: Settings,
        clock: Clock | None = None,
        *,
        reservations: Recovery | None = None,
    ) -> None:
        self._reservations = reservations
        self._db = db
        self._queue = queue
        self._kept = timedelta(days=settings.run_event_retention_days)
        # An access token asks for its login's rows to its end.
        self._sessions_kept = timedelta(seconds=settings.jwt_expiry_secs) + EVERY_DAY
        self._queries_kept = timedelta(days=settings.embedding_query_days)
        self._spaces = SpaceStore(db, settings)
        self._settings = settings
        self._clock = clock or SystemClock()
        self._audit_months = AuditMonths(db, self._clock)

    async def tend(self, stop: asyncio.Event) -> None:
        """A round every hour until ``stop``; one that meets a store that is away is left out."""
        pause = FIRST_SECS
        while not await _set_within(stop, pause):
            pause = EVERY_SECS
            try:
                done = await self.once()
            except AgentcyError as error:
                _log.warning("upkeep_failed", problem=error.message)
            else:
                _log.info(
                    "upkeep",
                    keys=done.keys,
                    events=done.events,
                    asked=len(done.asked),
                    shortened=len(done.shortened),
                    reservations=done.reservations,
                    queries=done.queries,
                    activity=done.activity,
                    spaces=done.spaces,
                    sessions=done.sessions,
                )

    async def once(self) -> Done:
        """One round.

        Raises:
            StoreUnavailableError: Postgres does not answer; what was removed stays so.
        """
        now = self._clock.now()
        keys = await self._delete(_KEYS, now) + await self._delete(_REPLAYS, now)
        events = await self._delete(_EVENTS, now - self._kept)
        queries = await self._delete(_QUERIES, now - self._queries_kept)
        activity = await self._delete(_ACTIVITY, now - ACTIVITY_KEPT)
        sessions = await self._delete(_SESSIONS, now - self._sessions_kept)
        spaces = await self._drop_expired()
        await self._audit_months.tend()
        async with self._db.system() as connection:
            since = now - EVERY_DAY
            rows = await connection.fetch(_TO_PRUNE, PRUNE_KIND, since)
            # No log is shorter than the last whole day.
            long = await connection.fetch(_TO_SHORTEN, AUDIT_KIND, since, now - 2 * EVERY_DAY)
        asked, shortened = (tuple(row["id"] for row in found) for found in (rows, long))
        for org_id in asked:
            await self._queue.enqueue(prune_job(org_id))
        for org_id in shortened:
            await self._queue.enqueue(_shorten_job(org_id))
        left = 0 if self._reservations is None else await self._reservations.sweep()
        return Done(keys, events, asked, shortened, left, queries, activity, spaces, sessions)

    async def _drop_expired(self) -> int:
        backends = VectorBackends(self._settings)
        try:
            return await drop_expired(self._db, self._spaces, backends)
        finally:
            await backends.close()

    async def _delete(self, statement: str, before: object) -> int:
        total, changed = 0, ROWS
        while changed == ROWS:
            async with self._db.system() as connection:
                tag = await connection.execute(statement, before, ROWS)
            changed = int(tag.rpartition(" ")[2])
            total += changed
        return total


def _shorten_job(org_id: UUID) -> NewJob:
    return NewJob(org_id=org_id, kind=AUDIT_KIND, priority=PRUNE_PRIORITY, dedupe_key=AUDIT_KIND)


async def _set_within(stop: asyncio.Event, secs: float) -> bool:
    try:
        async with asyncio.timeout(secs):
            return await stop.wait()
    except TimeoutError:
        return False
