"""The desk of a session host: takes calls in, hands them to the loops where connectors run.

All sources share one loop. When a source blocks it, the source keeps that loop and its thread for
itself, and everybody else moves to a fresh one: reads in flight are carried out again there, writes
that were not sent yet are taken over, and writes that were sent are waited for where they are. The
desk itself answers calls on a blocked loop when their deadlines pass, since that loop cannot.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from agentcy_ray.connectors.calls import UNKNOWN, UNSENT, Answer, Order, Wire
from agentcy_ray.connectors.owner import owned
from agentcy_ray.connectors.sessions import LATE_WRITE, SessionPool
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.runtime.host_set import HostLoad, HostSet, choose_host
from agentcy_ray.runtime.mailbox import PARK_SECS, Mailbox
from agentcy_ray.runtime.work_loop import Watch, WorkLoop

ALONE_SECS = 600.0
"""A source that blocked its loop shares one again after so long without doing it anew."""
MOVES_MAX = 2
"""A call that was moved so often is not moved again: it may be what blocks."""
OWNERS_MAX = 100_000
_log = structlog.get_logger(__name__)


class Desk:
    """Belongs to the loop on which it is made."""

    def __init__(self, name: str, make_pool: Callable[[], SessionPool]) -> None:
        self._name = name
        self._make_pool = make_pool
        self._loop = asyncio.get_running_loop()
        self._boxes: dict[str, Mailbox] = {}
        self._watch = Watch(self._has_work, self._from_watch)
        self._alone: dict[UUID, WorkLoop] = {}
        self._left: set[WorkLoop] = set()
        """Loops that hang for no known source; nobody is sent there."""
        self._shared = self._fresh_loop()
        self._hosts = HostSet(0, ())
        self._owners: dict[bytes, str] = {}
        self._peak = 0

    def learn(self, hosts: HostSet) -> HostLoad:
        """Take the set of hosts that the foreman tells, and say how loaded this one is."""
        if hosts.version > self._hosts.version:
            self._hosts = hosts
            self._owners.clear()
        now, peak = time.monotonic(), self._peak
        for caller, box in list(self._boxes.items()):
            if now - box.seen_at > 3 * PARK_SECS and not box.orders:
                del self._boxes[caller]
        for source_id, work in list(self._alone.items()):
            if not work.pool.open and now - work.stuck_at > ALONE_SECS:
                del self._alone[source_id]
                self._end(work)
        self._peak = in_flight = max(self._in_flight(), self._running())
        undelivered = sum(
            box.ready for box in self._boxes.values() if now - box.seen_at < PARK_SECS
        )
        return HostLoad(in_flight, max(peak, self._peak), undelivered, os.getpid())

    async def exchange(
        self, caller: str, version: int, wait: bool, calls: Sequence[Wire], cancels: Sequence[int]
    ) -> tuple[HostSet | None, list[int], list[Answer]]:
        """Start ``calls`` and give up ``cancels``; answers that are ready for ``caller``.

        Returns the set of hosts when the caller's is older, and the numbers of calls that another
        host has to execute by it.
        """
        box = self._boxes.get(caller)
        if box is None:
            box = self._boxes[caller] = Mailbox(self._loop)
        box.seen_at = time.monotonic()
        newer = self._hosts if self._hosts.version > version else None
        refused = self._accept(box, calls, check=newer is not None) if calls else []
        for number in cancels:
            order = box.orders.get(number)
            if order is not None and isinstance(order.home, WorkLoop):
                work = order.home
                work.loop.call_soon_threadsafe(work.pool.abandon, order)
        return newer, refused, await box.take(wait=wait and not refused)

    async def check(self, org_id: UUID, source_id: UUID) -> AgentcyError | None:
        """Reach a source with its credentials; the fault comes back as a value."""
        work = self._home(source_id)

        async def reach() -> AgentcyError | None:
            try:
                async with work.pool.session(org_id, source_id) as session:
                    await session.check()
            except AgentcyError as error:
                return error
            return None

        return await owned(source_id).run(work.run, reach())

    async def close(self) -> None:
        """Close every session and end every thread that still answers."""
        self._watch.end()
        for work in (self._shared, *self._alone.values()):
            await work.close()

    # -- inside --------------------------------------------------------------------------------

    def _accept(self, box: Mailbox, calls: Sequence[Wire], *, check: bool) -> list[int]:
        refused: list[int] = []
        groups: dict[WorkLoop, list[Order]] = {}
        for call in calls:
            if check and self._owner(call[2]) != self._name:
                refused.append(call[0])
                continue
            order = Order(call, box.put)
            box.orders[order.number] = order
            work = order.home = self._home(order.source_id)
            if work is not self._shared:
                self._guard(work, order)
            groups.setdefault(work, []).append(order)
        for work, orders in groups.items():
            work.submit(orders)
        self._watch.busy.set()
        self._peak = max(self._peak, self._in_flight())
        return refused

    def _home(self, source_id: UUID) -> WorkLoop:
        return self._alone.get(source_id, self._shared)

    def _in_flight(self) -> int:
        return sum(len(box.orders) for box in self._boxes.values())

    def _has_work(self) -> bool:
        return any(box.orders for box in list(self._boxes.values()))

    def _running(self) -> int:
        """Calls on the loops; more than are in flight when late writes still go on."""
        loops = (self._shared, *self._alone.values(), *self._left)
        return sum(len(work.pool.open) for work in loops)

    def _owner(self, source: bytes) -> str:
        owner = self._owners.get(source)
        if owner is None:
            if len(self._owners) >= OWNERS_MAX:
                self._owners.clear()
            owner = self._owners[source] = choose_host(UUID(bytes=source), self._hosts.names)
        return owner

    def _fresh_loop(self) -> WorkLoop:
        work = WorkLoop(self._make_pool())
        self._watch.over((work,))  # a source that is alone on its loop hurts nobody but itself
        return work

    def _end(self, work: WorkLoop) -> None:
        task = self._loop.create_task(work.close())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _from_watch(self, work: WorkLoop, source_id: UUID | None) -> None:
        self._loop.call_soon_threadsafe(self._leave, work, source_id)

    def _leave(self, work: WorkLoop, source_id: UUID | None) -> None:
        """Leave a loop that hangs to the source that blocks it; all others go to a fresh one."""
        if work is not self._shared:
            return
        _log.warning("connector_blocks_its_loop", host=self._name, source=str(source_id))
        work.stuck_at = time.monotonic()
        self._shared = self._fresh_loop()
        if source_id is None:
            self._left.add(work)
        else:
            self._alone[source_id] = work
        work.loop.call_soon_threadsafe(self._after, work, source_id)
        again: list[Order] = []
        for box in self._boxes.values():
            box.unstick()
            for order in list(box.orders.values()):
                if order.home is not work or order.done:
                    continue
                if order.source_id != source_id:
                    self._move(work, box, order, again)
                else:
                    self._guard(work, order)
        if again:
            self._shared.submit(again)

    def _after(self, work: WorkLoop, source_id: UUID | None) -> None:
        """On a loop that hung, once it goes on: it is that source's alone."""
        task = asyncio.get_running_loop().create_task(work.pool.keep_only(source_id))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if source_id is None:
            self._loop.call_soon_threadsafe(self._loop.call_later, ALONE_SECS, self._drop, work)

    def _drop(self, work: WorkLoop) -> None:
        self._left.discard(work)
        self._end(work)

    def _move(self, work: WorkLoop, box: Mailbox, order: Order, again: list[Order]) -> None:
        if order.consequential:
            with work.pool.sending:
                sent = order.sent
                order.done = order.done or not sent
            if sent:
                self._guard(work, order)
                return
        twin = order.again()
        twin.home = self._shared
        box.orders[twin.number] = twin
        if twin.moves > MOVES_MAX:
            twin.fault("connector_error", "the loop that it ran on hung each time", True)
        else:
            again.append(twin)

    def _guard(self, work: WorkLoop, order: Order) -> None:
        """Answer a call at its deadline from here: its own loop may hang."""
        left = order.deadline - time.monotonic() + 0.05
        self._loop.call_later(max(0.0, left), self._overdue, work, order)

    def _overdue(self, work: WorkLoop, order: Order) -> None:
        if order.done:
            return
        if not order.consequential:
            order.fault("connector_timeout", "the source did not answer in time", True)
            return
        with work.pool.sending:
            sent = order.sent
            if not sent:
                order.fault(UNSENT, "the source was not ready before the deadline", True)
        if sent:
            order.fault(UNKNOWN, LATE_WRITE)
