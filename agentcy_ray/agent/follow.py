"""Readers of a run's log: backlog first, then live, with nothing lost and nothing twice.

A reader listens before it reads, so an event is either in the backlog or rings. A ring that carries
the next event is believed; any other ring sends the reader to Postgres. Lost rings are covered by
one poll for all readers of the process, so an idle stream costs no query of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from agentcy_ray.core.errors import GoneError, NotFoundError, StoreUnavailableError
from agentcy_ray.core.events import EventType, RunEvent
from agentcy_ray.core.ids import encode
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.bell import Bell, Ear
from agentcy_ray.stores.postgres import Database

PAGE = 500

Read = Callable[[UUID, UUID, int, int], Awaitable[list[RunEvent]]]
"""(org, run, after, limit) → events in order."""

_STATE = "SELECT ended_at FROM runs WHERE id = $1"
_HEADS = "SELECT id, last_seq FROM runs WHERE id = ANY($1)"


def run_channel(run_id: UUID) -> str:
    """The channel on which a run's readers are rung."""
    return f"ch:run:{run_id.hex}"


@dataclass(eq=False)
class _Reader:
    ear: Ear
    last: int


class Follower:
    """All readers of one process."""

    def __init__(self, db: Database, bell: Bell, read: Read, settings: Settings) -> None:
        self._db = db
        self._bell = bell
        self._read = read
        self._ping_secs = settings.sse_ping_secs
        self._kept = timedelta(days=settings.run_event_retention_days)
        self._poll = _Poll(db, settings.approval_poll_secs)

    async def follow(
        self, org_id: UUID, run_id: UUID, after: int
    ) -> AsyncGenerator[RunEvent | None]:
        """See ``RunLog.follow``."""
        await self._check(org_id, run_id)
        clock = asyncio.get_running_loop().time
        async with self._bell.listen(run_channel(run_id)) as ear:
            reader = _Reader(ear, after)
            with self._poll.watching(run_id, reader):
                ping_at = clock() + self._ping_secs
                behind = True
                while True:
                    while behind:
                        page = await self._read(org_id, run_id, reader.last, PAGE)
                        behind = len(page) == PAGE
                        for event in page:
                            reader.last = event.seq
                            yield event
                            ping_at = clock() + self._ping_secs
                            if event.terminal:
                                return
                        page = event = None  # thousands of readers wait here: keep nothing
                    ring = await ear.next(max(0.0, ping_at - clock()))
                    if ring is None:
                        behind = clock() < ping_at  # woken early: something may have been missed
                        if not behind:
                            yield None
                            ping_at = clock() + self._ping_secs
                        continue
                    events = _inline(run_id, ring, reader.last)
                    behind = not events and int(ring.get("seq", 0)) > reader.last
                    for event in events:
                        reader.last = event.seq
                        yield event
                        ping_at = clock() + self._ping_secs
                        if event.terminal:
                            return
                    ring = event = None
                    events = []

    async def _check(self, org_id: UUID, run_id: UUID) -> None:
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_STATE, run_id)
        if row is None:
            raise NotFoundError(f"no run {encode('run', run_id)}; list the runs to find one")
        ended = row["ended_at"]
        if ended is not None and ended < datetime.now(UTC) - self._kept:
            raise GoneError(
                f"the log of run {encode('run', run_id)} is past its retention of "
                f"{self._kept.days} days; the conversation still holds its message",
                code="event_log_gone",
            )


class _Poll:
    """One query per interval for all runs that somebody follows; wakes the readers left behind."""

    def __init__(self, db: Database, every_secs: float) -> None:
        self._db = db
        self._every_secs = every_secs
        self._readers: dict[UUID, set[_Reader]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, run_id: UUID, reader: _Reader) -> Generator[None]:
        """Keep ``reader`` in the poll while inside."""
        self._readers.setdefault(run_id, set()).add(reader)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="run-log-poll")
        try:
            yield
        finally:
            self._readers[run_id].discard(reader)
            if not self._readers[run_id]:
                del self._readers[run_id]
            if not self._readers:
                self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_secs)
            try:
                async with self._db.system() as connection:
                    rows = await connection.fetch(_HEADS, list(self._readers))
            except StoreUnavailableError:
                continue  # readers learn it from reads of their own; the poll goes on
            for row in rows:
                for reader in self._readers.get(row["id"], ()):
                    if reader.last < row["last_seq"]:
                        reader.ear.hear(None)


def _inline(run_id: UUID, ring: Mapping[str, Any], last: int) -> list[RunEvent]:
    """The events that a ring carries, when the next one is among them."""
    carried = [event for event in ring.get("events", ()) if event["seq"] > last]
    if not carried or carried[0]["seq"] != last + 1:
        return []
    return [
        RunEvent(
            run_id=run_id,
            seq=event["seq"],
            type=EventType(event["type"]),
            data=event["data"],
            at=event["at"],
        )
        for event in carried
    ]
