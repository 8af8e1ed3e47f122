"""An engine of regorus beside the thread that it belongs to.

regorus gives the memory of an engine back only to the thread that made it; dropped by another one,
the engine stays for good, and a complaint goes to stderr. Which thread drops a set last is chance:
one that was asked to explain a decision while a newer set took its place, or the one in which the
collector of garbage happens to run.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any


class Kept:
    """An engine of the running event loop's thread, which goes back there to be dropped.

    A thread without a loop has to drop what it keeps itself, before it ends or others may.
    """

    __slots__ = ("_held", "_loop", "_thread")

    def __init__(self, engine: Any) -> None:
        """Take an engine that this thread has just made."""
        self._held = [engine]
        self._thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # no loop runs here
            self._loop = asyncio.get_running_loop()

    @property
    def engine(self) -> Any:
        """The engine; only for the thread that made it."""
        return self._held[0]

    def __del__(self) -> None:
        """Leave the engine to its thread: from here on the loop alone refers to it."""
        if self._loop is not None and threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop is closed, and its thread most likely over
                self._loop.call_soon_threadsafe(self._held.clear)
