"""Session hosts: actors that hold connector sessions and execute tool calls.

One remote call per tool call would cost more than most tools do. A dispatcher therefore talks to a
host by *exchanges*: it hands over the calls that wait and takes the outcomes that are ready. An
exchange with nothing ready is parked at the host until something is, or until the same caller's
next exchange arrives; so a slow tool delays nobody, and under load one round trip carries up to
``batch_max`` calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolOutcome, ToolRequest

if TYPE_CHECKING:
    from agentcy_ray.connectors.sessions import SessionPool


class Mailbox:
    """Outcomes that wait for one caller."""

    def __init__(self) -> None:
        self.ready: list[ToolOutcome] = []
        self.wake = asyncio.Event()
        self.generation = 0

    def put(self, outcome: ToolOutcome) -> None:
        """Add an outcome and wake the exchange that is parked here."""
        self.ready.append(outcome)
        self.wake.set()

    async def take(self, *, wait: bool) -> list[ToolOutcome]:
        """What is ready; parks when there is nothing and ``wait`` is set."""
        self.generation += 1
        mine = self.generation
        self.wake.set()  # releases the exchange that was parked before this one
        await asyncio.sleep(0)
        while wait and not self.ready and mine == self.generation:
            self.wake.clear()
            await self.wake.wait()
        # One more turn of the loop, so that calls which end together travel together.
        await asyncio.sleep(0)
        ready, self.ready = self.ready, []
        return ready


class SessionHost:
    """Actor class. Holds the sessions of the sources that hash to it."""

    def __init__(self) -> None:
        self._boxes: dict[str, Mailbox] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._opening: asyncio.Task[SessionPool] | None = None

    async def exchange(
        self, caller: str, requests: Sequence[ToolRequest], wait: bool
    ) -> list[ToolOutcome]:
        """Start ``requests``; return outcomes that are ready for ``caller`` (see the module)."""
        pool = await self._pool()
        box = self._boxes.setdefault(caller, Mailbox())
        for request in requests:
            key = request.tool_call_id.hex
            task = asyncio.create_task(self._execute(pool, request, box))
            self._running[key] = task
            task.add_done_callback(lambda _, key=key: self._running.pop(key, None))
        return await box.take(wait=wait)

    async def abandon(self, call_ids: Sequence[str]) -> None:
        """Cancel reads in flight; their outcomes are dropped."""
        for call_id in call_ids:
            task = self._running.get(call_id)
            if task is not None:
                task.cancel()

    async def check_source(self, org_id: UUID, source_id: UUID) -> AgentcyError | None:
        """Reach a source with its credentials; the fault comes back as a value."""
        pool = await self._pool()
        try:
            async with pool.session(org_id, source_id) as session:
                await session.check()
        except AgentcyError as error:
            return error
        return None

    async def ping(self) -> int:
        """Calls that run here now."""
        return len(self._running)

    async def _execute(self, pool: SessionPool, request: ToolRequest, box: Mailbox) -> None:
        box.put(await pool.call(request))

    async def _pool(self) -> SessionPool:
        """The session pool; opened once, by whoever asks first."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(_open_pool())
        return await asyncio.shield(self._opening)


async def _open_pool() -> SessionPool:
    from agentcy_ray.runtime.parts import open_session_pool

    return await open_session_pool(Settings.load())
