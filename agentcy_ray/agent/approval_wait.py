"""Waiting for decisions: one listener for each organisation, however many calls wait.

A ring wakes the waiter that it is about. Everything else, a lost ring and an expiry too, is found
by one query for all waiters of the organisation every ``APPROVAL_POLL_SECS``. Waking up means no
more than that the row is worth a look.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from agentcy_ray.core.errors import NotFoundError, StoreUnavailableError
from agentcy_ray.core.ids import decode
from agentcy_ray.stores.bell import Bell, Ear
from agentcy_ray.stores.postgres import Database

_SETTLED = """
SELECT id FROM approvals
WHERE id = ANY($1) AND (status <> 'pending' OR expires_at <= clock_timestamp())
"""


class Knock:
    """One waiter. Get it from ``Waits.waiting``."""

    def __init__(self, org: _Org) -> None:
        self._org = org
        self._event = asyncio.Event()
        self._said: str | None = None
        self.until = math.inf
        """When the approval expires, on the monotonic clock."""

    def wake(self, said: str | None = None) -> None:
        """Make the waiter look at its row, of which a ring said that it has this status."""
        self._said = said
        self._event.set()

    async def look(self, secs_left: float) -> str | None:
        """Return when the row is worth a look, with the status that a ring gave, if it was one.

        The row is overdue in ``secs_left`` seconds.
        """
        self.until = time.monotonic() + max(secs_left, 0.0)
        self._org.hasten(self.until)
        await self._event.wait()
        self._event.clear()
        self.until = math.inf
        self._org.check()
        return self._said


class _Org:
    """The waiters of one organisation."""

    def __init__(self) -> None:
        self.knocks: dict[UUID, set[Knock]] = {}
        self.listening = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.ear: Ear | None = None
        self.next_look = math.inf

    def hasten(self, until: float) -> None:
        """Look no later than at ``until``."""
        if self.ear is not None and until < self.next_look:
            self.ear.hear(None)

    def check(self) -> None:
        """Raise what ended the listener, if something did: nobody would wake the waiter again."""
        if self.task is not None and self.task.done() and not self.task.cancelled():
            self.task.result()

    def wake(self, approval_id: UUID | None = None, said: str | None = None) -> None:
        """Wake the waiters of one approval, or all."""
        chosen = self.knocks.values() if approval_id is None else [self.knocks.get(approval_id, ())]
        for knocks in chosen:
            for knock in knocks:
                knock.wake(said)


class Waits:
    """The waiters of one process."""

    def __init__(self, db: Database, bell: Bell, poll_secs: float) -> None:
        self._db = db
        self._bell = bell
        self.poll_secs = poll_secs
        self._orgs: dict[UUID, _Org] = {}

    @asynccontextmanager
    async def waiting(self, org_id: UUID, approval_id: UUID) -> AsyncGenerator[Knock]:
        """Wait for one approval; on entry its rings are heard, so a look misses nothing."""
        org = self._orgs.get(org_id)
        if org is None:
            org = self._orgs[org_id] = _Org()
            org.task = asyncio.create_task(self._listen(org_id, org), name="approval-waits")
        knock = Knock(org)
        org.knocks.setdefault(approval_id, set()).add(knock)
        try:
            await org.listening.wait()
            yield knock
        finally:
            org.knocks[approval_id].discard(knock)
            if not org.knocks[approval_id]:
                del org.knocks[approval_id]
            if not org.knocks and self._orgs.get(org_id) is org:
                del self._orgs[org_id]
                if org.task is not None:
                    org.task.cancel()

    async def _listen(self, org_id: UUID, org: _Org) -> None:
        try:
            async with self._bell.listen(f"ch:approval:{org_id.hex}") as org.ear:
                org.listening.set()
                while True:
                    await self._hear(org_id, org, org.ear)
        finally:
            if self._orgs.get(org_id) is org:
                del self._orgs[org_id]
            org.listening.set()
            org.wake()

    async def _hear(self, org_id: UUID, org: _Org, ear: Ear) -> None:
        """Pass rings on until it is time to look, then look."""
        first = min((k.until for knocks in org.knocks.values() for k in knocks), default=math.inf)
        now = time.monotonic()
        org.next_look = min(now + self.poll_secs, max(first, now + 0.001))
        while (rest := org.next_look - time.monotonic()) > 0:
            rung = await ear.next(rest)
            if rung is None:
                break
            if rung.get("status") != "pending":
                _pass_on(org, rung)
        try:
            async with self._db.tenant(org_id) as connection:
                settled = await connection.fetch(_SETTLED, list(org.knocks))
        except StoreUnavailableError:
            org.wake()  # each waiter meets the fault itself, and its caller decides
            await ear.next(self.poll_secs)
            return
        for row in settled:
            org.wake(row["id"])


def _pass_on(org: _Org, rung: dict[str, Any]) -> None:
    try:
        org.wake(decode("apr", str(rung.get("approval_id"))), str(rung.get("status")))
    except NotFoundError:
        org.wake()  # not ours; a reason to look, no more
