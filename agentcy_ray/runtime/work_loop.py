"""Event loops on threads of their own, where connectors run, and the watch over them.

A connector that blocks its event loop would stall every other one of its host. Connectors therefore
never run on the loop that talks to dispatchers. The watch asks each busy loop for a sign of life;
one that gives none while the same source's task stays in its step is reported as stuck.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import structlog

from agentcy_ray.connectors.calls import Order
from agentcy_ray.connectors.owner import OWNER
from agentcy_ray.connectors.sessions import SessionPool

_log = structlog.get_logger(__name__)

BEAT_SECS = 0.05
"""How often busy loops are asked for a sign of life."""
STUCK_SECS = 0.2
"""A loop that gives none for so long is stuck."""


class WorkLoop:
    """A thread with an event loop and the sessions that live on it."""

    def __init__(self, pool: SessionPool) -> None:
        self.pool = pool
        self.loop = asyncio.new_event_loop()
        self.loop.set_task_factory(self._task)
        self.stuck_at = 0.0
        """When it was last found stuck, on the monotonic clock."""
        self._owners: WeakKeyDictionary[asyncio.Future[Any], UUID] = WeakKeyDictionary()
        self._asked_at: float | None = None
        self._closing = False
        threading.Thread(target=self._live, name="connectors", daemon=True).start()

    def submit(self, orders: list[Order]) -> None:
        """Hand orders over; callable from any thread."""
        self.loop.call_soon_threadsafe(self.pool.submit_all, orders)

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Run a coroutine there; the future belongs to the caller's loop."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def current_owner(self) -> UUID | None:
        """The source whose task is in its step at this moment."""
        task = asyncio.current_task(self.loop)
        return None if task is None else self._owners.get(task)

    def silent_secs(self, now: float) -> float:
        """How long it has owed a sign of life; asks for one when none is owed."""
        if self._asked_at is None:
            self._asked_at = now
            self.loop.call_soon_threadsafe(self._alive)
            return 0.0
        return now - self._asked_at

    async def close(self) -> None:
        """Close its sessions and end its thread; call from another loop."""
        await self.run(self.pool.close())
        self._closing = True
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _alive(self) -> None:
        self._asked_at = None

    def _live(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._closing:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # Raised in a task that a connector started; every other task goes on.
                _log.warning("connector_ended_its_task", reason=type(error).__name__)
        self.loop.close()

    def _task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is not None:
            self._owners[task] = owner
        return task


class Watch:
    """A thread that looks at loops while there is work; calls ``stuck`` on itself."""

    def __init__(
        self, has_work: Callable[[], bool], stuck: Callable[[WorkLoop, UUID | None], None]
    ) -> None:
        self.busy = threading.Event()
        """Set it when work was handed over: an idle host is not woken twenty times a second."""
        self._loops: tuple[WorkLoop, ...] = ()
        self._has_work = has_work
        self._stuck = stuck
        self._ended = False
        self._suspects: dict[WorkLoop, UUID | None] = {}
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def over(self, loops: tuple[WorkLoop, ...]) -> None:
        """The loops to watch from now on."""
        self._loops = loops

    def end(self) -> None:
        """End the thread."""
        self._ended = True
        self.busy.set()

    def _look(self) -> None:
        while not self._ended:
            self.busy.wait()
            time.sleep(BEAT_SECS)
            loops = self._loops
            if not self._has_work():
                self.busy.clear()
                if not self._has_work():  # else work came in between
                    continue
            now = time.monotonic()
            for work in loops:
                self._examine(work, now)

    def _examine(self, work: WorkLoop, now: float) -> None:
        if work.silent_secs(now) < STUCK_SECS - BEAT_SECS:
            self._suspects.pop(work, None)
            return
        owner = work.current_owner()
        if work in self._suspects and self._suspects[work] == owner:
            del self._suspects[work]
            self._stuck(work, owner)
        else:  # seen in the same step twice before anybody is blamed
            self._suspects[work] = owner
