"""Calls on their way: handed over together, taken back in the groups in which answers come."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from time import perf_counter
from typing import Any
from uuid import UUID

from agentcy_ray.agent.backend import Answer, Backend
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.connectors.calls import Told
from agentcy_ray.core.tools import ToolRequest

Landed = tuple[OpenCall, Answer]


class Flight:
    """What was sent and has not been taken. One taker at a time; ``end`` it."""

    def __init__(self, backend: Backend, ctx: CallContext) -> None:
        self._backend = backend
        self._ctx = ctx
        self._loop = asyncio.get_running_loop()
        self._aloft: dict[UUID, tuple[OpenCall, ToolRequest, float]] = {}
        """Calls at the dispatcher, with the moment from which nobody waits for them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._landed: list[Landed] = []
        self._some: asyncio.Future[None] | None = None
        self._broken: BaseException | None = None
        self.open = 0
        """Calls that were sent and not taken."""

    async def send(self, calls: Sequence[OpenCall]) -> None:
        """Send calls off; those for session hosts travel together."""
        requests: list[ToolRequest] = []
        sent, now, end = perf_counter(), self._backend.now(), self._loop.time()
        self.open += len(calls)
        for opened in calls:
            opened.times.sent = sent
            assert opened.entry is not None
            if opened.entry.source_id is None:
                self._follow(opened, self._backend.execute(self._ctx, opened))
                continue
            request = self._backend.request(self._ctx, opened, now)
            due = end + self._backend.limit_secs(opened.entry)
            self._aloft[request.tool_call_id] = opened, request, due
            requests.append(request)
        if requests:
            await self._backend.dispatcher.send(requests, self._told)
            self._set_watch()

    async def take(self) -> list[Landed]:
        """The answers that are here, at least one; those that come together are taken together.

        Raises:
            AgentcyError: whatever asking about a call raised.
        """
        if not self._landed:
            if self._broken is not None:
                raise self._broken
            self._some = self._loop.create_future()
            await self._some
        landed, self._landed = self._landed, []
        self.open -= len(landed)
        return landed

    async def end(self) -> None:
        """Give up what is still on its way; an effect that was sent goes on without us."""
        if self._watch is not None:
            self._watch.cancel()
        reads = self._forget(list(self._aloft))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if reads:
            await asyncio.shield(self._backend.dispatcher.abandon(reads))

    def _told(self, request: ToolRequest, told: Told) -> None:
        found = self._aloft.pop(request.tool_call_id, None)
        if found is not None:
            self._answer(found[0], told)

    def _answer(self, opened: OpenCall, told: Told) -> None:
        answer = self._backend.answer(opened, told)
        if answer is None:  # it has to be asked about, or made once more
            self._follow(opened, self._backend.conclude(self._ctx, opened, told))
        else:
            self._land(opened, answer)

    def _land(self, opened: OpenCall, answer: Answer) -> None:
        self._landed.append((opened, answer))
        if self._some is not None and not self._some.done():
            self._some.set_result(None)

    def _follow(self, opened: OpenCall, work: Coroutine[Any, Any, Answer]) -> None:
        async def run() -> None:
            self._land(opened, await work)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._followed)

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            if self._some is not None and not self._some.done():
                self._some.set_exception(error)

    # -- a dispatcher that never answers --------------------------------------------------------

    def _set_watch(self) -> None:
        if self._watch is None and self._aloft:
            first = min(due for _, _, due in self._aloft.values())
            self._watch = self._loop.call_at(first, self._look)

    def _look(self) -> None:
        self._watch = None
        now = self._loop.time()
        late = [key for key, (_, _, due) in self._aloft.items() if due <= now]
        calls = [self._aloft[key][0] for key in late]
        if reads := self._forget(late):
            self._follow_up(reads)
        for opened in calls:
            self._answer(opened, TimeoutError("no answer came in time"))
        self._set_watch()

    def _follow_up(self, reads: Sequence[ToolRequest]) -> None:
        task = asyncio.create_task(self._backend.dispatcher.abandon(reads))
        self._tasks.add(task)
        task.add_done_callback(self._followed)

    def _forget(self, keys: Sequence[UUID]) -> list[ToolRequest]:
        """Wait no more for calls; gives the requests of the reads among them."""
        found = [self._aloft.pop(key) for key in keys]
        return [request for opened, request, _ in found if not opened.effect.consequential]
