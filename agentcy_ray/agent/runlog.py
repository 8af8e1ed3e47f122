"""The run log: numbered events of a run. Postgres is the truth, Redis only rings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

from agentcy_ray.agent import run_writer
from agentcy_ray.agent.follow import Follower
from agentcy_ray.agent.rings import Rings
from agentcy_ray.agent.run_writer import (
    NewEvent,
    NewResults,
    NewTurn,
    RunKey,
    RunWrite,
    Stored,
    storable,
)
from agentcy_ray.core.events import RunEvent
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.group_commit import GroupCommit
from agentcy_ray.stores.postgres import Database

_READ = """
SELECT run_id, seq, type, data, at FROM run_events
WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""


class RunLog:
    """Appends to and reads from the logs of all runs."""

    def __init__(self, db: Database, bell: Bell, settings: Settings) -> None:
        self._db = db
        self._writes = GroupCommit[RunWrite, list[Stored]](db, run_writer.put)
        self._rings = Rings(bell)
        self._follower = Follower(db, bell, self.read, settings)

    async def append(
        self,
        key: RunKey,
        events: Sequence[NewEvent],
        *,
        turn: NewTurn | None = None,
        results: NewResults | None = None,
    ) -> list[Stored]:
        """Write ``events`` as the next of the run and what belongs to them; ring its readers.

        Raises:
            LeaseLostError: the run has a newer owner, or has ended; nothing was written.
            StoreUnavailableError: Postgres does not answer; nothing was written.
        """
        if not events and turn is None and results is None:
            return []
        write = RunWrite(key, [storable(event) for event in events], turn, results)
        stored = await self._writes.hand_in(key.org_id, write)
        self._rings.add(key.run_id, stored)
        return stored

    def keep(self, key: RunKey, turn: NewTurn) -> asyncio.Future[list[Stored]]:
        """Write a turn before whatever is appended from now on.

        The future is done once it is durable, or holds what ``append`` raises.
        """
        return self._writes.hand_in(key.org_id, RunWrite(key, (), turn))

    async def read(
        self, org_id: UUID, run_id: UUID, after: int = 0, limit: int = 500
    ) -> list[RunEvent]:
        """Events with numbers above ``after``, in order."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_READ, run_id, after, limit)
        return [RunEvent.model_validate(dict(row)) for row in rows]

    def follow(self, org_id: UUID, run_id: UUID, after: int = 0) -> AsyncGenerator[RunEvent | None]:
        """Events above ``after``: the backlog, then live ones, each once and in order, to the end.

        Yields None when it is time for a ping. Close the generator to leave.

        Raises:
            NotFoundError: the organisation has no such run.
            GoneError: code ``event_log_gone``: it ended longer ago than logs are kept.
        """
        return self._follower.follow(org_id, run_id, after)

    def ring(self, run_id: UUID, stored: Sequence[Stored]) -> None:
        """Tell readers of events that were written by ``append_on``, after their commit."""
        self._rings.add(run_id, stored)
