"""Blocking iterators on a thread of their own, pulled item by item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


async def pull(items: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Run a blocking generator on one thread; the next item is made only when it is asked for.

    Items should be large (a batch): each costs a hop between threads. When the consumer stops
    early, the generator is closed on its own thread, after the step that it is in.
    """
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="connector")
    try:
        while (item := await loop.run_in_executor(thread, next, items, _END)) is not _END:
            yield item
    finally:
        # One thread keeps the order: the close waits for a step that is still running. It is not
        # awaited, since a consumer that is being cancelled must not hang on a slow source.
        thread.submit(items.close)
        thread.shutdown(wait=False)
