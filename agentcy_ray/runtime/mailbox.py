"""Answers that wait at a session host for one dispatcher."""

from __future__ import annotations

import asyncio

from agentcy_ray.connectors.calls import Answer, Order

PARK_SECS = 20.0
"""An exchange with nothing ready goes back empty after so long, since its caller may be dead."""


class Mailbox:
    """Filled on the loops where connectors run, emptied on the loop that talks to dispatchers."""

    def __init__(self, desk: asyncio.AbstractEventLoop) -> None:
        self.orders: dict[int, Order] = {}
        """Calls of this dispatcher that wait or run, by number."""
        self.seen_at = 0.0
        """When it last sent an exchange, on the monotonic clock."""
        self._ready: list[Answer] = []
        self._desk = desk
        self._ringing = False
        self._parked: asyncio.Future[None] | None = None

    @property
    def ready(self) -> int:
        """Answers that wait."""
        return len(self._ready)

    @property
    def parked(self) -> bool:
        """Whether an exchange waits for answers."""
        return self._parked is not None

    def put(self, order: Order, answer: Answer) -> None:
        """Add an answer. Those of one turn of the sending loop ring once."""
        self.orders.pop(order.number, None)
        self._ready.append(answer)
        if not self._ringing:
            self._ringing = True
            asyncio.get_running_loop().call_soon(self._ring)

    def wake(self) -> None:
        """Let the parked exchange go; on the desk's loop."""
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def unstick(self) -> None:
        """Wake, and do not count on the ring of a loop that hangs."""
        self._ringing = False
        self.wake()

    async def take(self, *, wait: bool) -> list[Answer]:
        """What is ready; parks when there is nothing and ``wait`` is set."""
        self.wake()  # releases the exchange that was parked before this one
        if wait and not self._ready:
            parked = self._parked = self._desk.create_future()
            timer = self._desk.call_later(PARK_SECS, self._release, parked)
            await parked
            timer.cancel()
            if self._parked is parked:
                self._parked = None
        # Other threads append meanwhile; slices keep what comes after the count.
        count = len(self._ready)
        taken = self._ready[:count]
        del self._ready[:count]
        return taken

    def _ring(self) -> None:
        self._ringing = False
        self._desk.call_soon_threadsafe(self.wake)

    @staticmethod
    def _release(parked: asyncio.Future[None]) -> None:
        if not parked.done():
            parked.set_result(None)
