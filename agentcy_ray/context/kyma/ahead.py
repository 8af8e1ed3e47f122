"""Batches of a Flight stream, read on a thread some way ahead of whoever works on them.

A thread reads until it is far enough ahead, and is free again: a caller that is slow holds the
engine back and no thread, one that is fast finds several batches for each time a thread was woken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import pyarrow as pa

AHEAD_BYTES = 4 << 20
"""How far ahead a stream is read; a batch that is larger counts whole."""
AHEAD_BATCHES = 16


class Ahead:
    """One stream; for one task of the event loop that made it."""

    def __init__(self, threads: Executor, open_stream: Callable[[], Any]) -> None:
        """Begin to read.

        Args:
            threads: where reading blocks.
            open_stream: gives the ``FlightStreamReader``; called on a thread.
        """
        self._threads = threads
        self._open = open_stream
        self._reader: Any = None
        self._ready: deque[pa.RecordBatch] = deque()
        self._over = self._left = False
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._filling = self._fill()

    async def next(self) -> pa.RecordBatch | None:
        """The next batch; None after the last.

        Raises:
            pa.ArrowException: what opening or reading the stream raised, after all batches that
                came before it.
        """
        while not self._ready:
            if self._filling.done():
                self._filling.result()
                if self._ready:
                    break
                if self._over:
                    return None
                self._filling = self._fill()
            self._news.clear()
            if not self._ready and not self._filling.done():
                await self._news.wait()
        batch = self._ready.popleft()
        if len(self._ready) < AHEAD_BATCHES // 2 and self._may_go_on():
            self._filling = self._fill()
        return batch

    async def close(self) -> None:
        """End the stream, whether or not all of it was read."""
        self._left = True
        if self._reader is not None:
            self._reader.cancel()
        await asyncio.wait({self._filling})
        if not self._filling.cancelled():
            self._filling.exception()  # nobody waits for it any more
        if self._reader is not None:
            self._reader.cancel()

    def _may_go_on(self) -> bool:
        if self._over or not self._filling.done():
            return False
        return self._filling.exception() is None  # a failure stays until its turn has come

    def _fill(self) -> asyncio.Future[None]:
        filling = self._loop.run_in_executor(self._threads, self._read)
        filling.add_done_callback(lambda _: self._news.set())
        return filling

    def _read(self) -> None:
        if self._reader is None:
            self._reader = self._open()
        room = AHEAD_BYTES
        while room > 0 and len(self._ready) < AHEAD_BATCHES and not self._left:
            try:
                batch = self._reader.read_chunk().data
            except StopIteration:
                self._over = True
                return
            if batch is None:  # metadata alone
                continue
            self._ready.append(batch)
            room -= batch.nbytes
            if len(self._ready) == 1:  # the loop may wait for it
                self._loop.call_soon_threadsafe(self._news.set)
