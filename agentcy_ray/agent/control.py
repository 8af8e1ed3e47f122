"""How a run is told to stop, and how its work learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

T = TypeVar("T")

StopReason = Literal["cancelled", "withdrawn", "handover", "lost", "timeout"]
"""By a person; whoever began it holds less by now; the executor goes away; a newer owner; the run's
time is over."""


class Stopped(Exception):
    """The run is to stop; ``reason`` says why. A signal for the loop, never an answer."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason: StopReason = reason


class RunControl:
    """One run's stop signal. The first reason wins, except that a lost lease beats all."""

    def __init__(self) -> None:
        self._reason: StopReason | None = None
        self._stopped = asyncio.Event()
        self._guarded: set[asyncio.Future[Any]] = set()

    @property
    def reason(self) -> StopReason | None:
        """Why the run is to stop; None = it is not."""
        return self._reason

    def stop(self, reason: StopReason) -> None:
        """Tell the run to stop."""
        if self._reason is None or reason == "lost":
            self._reason = reason
        self._stopped.set()
        for task in self._guarded:
            task.cancel()

    def check(self) -> None:
        """Raise ``Stopped`` when the run is to stop."""
        if self._reason is not None:
            raise Stopped(self._reason)

    async def wait(self) -> None:
        """Return when the run is to stop."""
        await self._stopped.wait()

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which is cancelled, and has cleaned up, when the run is to stop.

        Raises:
            Stopped: the run is to stop.
        """
        if self._reason is not None:
            work.close()
            raise Stopped(self._reason)
        task = asyncio.ensure_future(work)
        self._guarded.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._reason is not None and task.cancelled():
                raise Stopped(self._reason) from None
            raise
        finally:
            self._guarded.discard(task)
