"""The calls of one source that wait for their turn, and the tasks that carry them out.

A task per call would cost more than a quick tool does. A few workers take call after call instead:
one that finds the next call waiting hires another before it begins, so calls that wait for a source
run side by side up to the limit, and calls that do not wait run one after the other in one task.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from uuid import UUID

from agentcy_ray.connectors.calls import Order
from agentcy_ray.connectors.owner import owned

SLICE_SECS = 0.005
"""A worker that was never made to wait lets others go first after so long."""

Run = Callable[["Line", Order], Awaitable[None]]


class Line:
    """The line of one source."""

    def __init__(self, source_id: UUID, run: Run, ended: Callable[[Order], None]) -> None:
        self.limit = 1
        """Workers at most; one until the session is open and says what it bears."""
        self.workers: set[asyncio.Task[None]] = set()
        self._queue: deque[Order] = deque()
        self._run = run
        self._ended = ended
        self._context = owned(source_id)
        self._hired = False  # a worker was started that has not had its first turn

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nobody works."""
        return not self._queue and not self.workers

    def join(self, order: Order) -> None:
        """Put an order at the end of the line."""
        self._queue.append(order)
        if not self._hired:
            self._hire()

    def leave(self) -> list[Order]:
        """Empty the line; returns who stood in it."""
        left, self._queue = list(self._queue), deque()
        return left

    def _hire(self) -> None:
        if len(self.workers) < self.limit:
            self._hired = True
            task = asyncio.get_running_loop().create_task(
                self._work(), context=self._context.copy()
            )
            self.workers.add(task)
            task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self.workers.discard(task)
        if not task.cancelled() and task.exception() is None and self._queue and not self._hired:
            self._hire()

    async def _work(self) -> None:
        self._hired = False
        task, since = asyncio.current_task(), time.monotonic()
        assert task is not None
        while self._queue:
            order = self._queue.popleft()
            if order.done:
                self._ended(order)
            else:
                if self._queue and not self._hired:
                    self._hire()
                await self._carry_out(order, task)
            if time.monotonic() - since > SLICE_SECS:
                await asyncio.sleep(0)
                since = time.monotonic()

    async def _carry_out(self, order: Order, task: asyncio.Task[None]) -> None:
        order.worker = task
        try:
            await self._run(self, order)
        except asyncio.CancelledError:
            if not order.stopped:  # it is the worker that is to end, not the call
                raise
        finally:
            order.worker = None
            if order.stopped:
                task.uncancel()
            self._ended(order)
