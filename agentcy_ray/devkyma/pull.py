"""Taking batches from a running query, on the threads of Flight, so that it can be stopped.

A stream's own ``next`` blocks until there is a batch: a query that never has one would run on after
its caller has left. Awaited on a loop instead, it ends where it is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

LOOK_SECS = 0.1
"""How often a waiting stream looks whether its caller is still there."""


class StoppedError(Exception):
    """The caller left, or the time is over; the query does not run any more."""


class Puller:
    """A loop on a thread of its own, for all streams of a server."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="devkyma-pull", daemon=True
        )
        self._thread.start()

    def batches(self, stream: Any, gone: Callable[[], bool], wall_clock_ms: int) -> Iterator[Any]:
        """The batches of a DataFusion stream.

        Raises:
            StoppedError: ``gone`` said so, or ``wall_clock_ms`` have passed.
        """
        deadline = time.monotonic() + wall_clock_ms / 1000
        while True:
            awaited = asyncio.run_coroutine_threadsafe(_next(stream), self._loop)
            batch = _wait(awaited, gone, deadline)
            if batch is None:
                return
            yield batch

    def close(self) -> None:
        """Stop the loop; streams that still run end."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


async def _next(stream: Any) -> Any:
    return await anext(stream, None)


def _wait(awaited: Future[Any], gone: Callable[[], bool], deadline: float) -> Any:
    while True:
        try:
            return awaited.result(LOOK_SECS)
        except TimeoutError:
            if awaited.done():
                raise
        if gone() or time.monotonic() > deadline:
            awaited.cancel()
            raise StoppedError
