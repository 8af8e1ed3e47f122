"""Stages that run beside each other, each a bounded number of items ahead of the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar, cast

T = TypeVar("T")

_END = object()


async def ahead(items: Iterator[T], depth: int = 2) -> AsyncGenerator[T]:
    """Iterate a blocking iterator on a thread, up to ``depth`` items ahead of the consumer."""

    async def steps() -> AsyncGenerator[T]:
        while (item := await asyncio.to_thread(next, items, _END)) is not _END:
            yield cast("T", item)

    async for item in buffered(steps(), depth):
        yield item


async def buffered(items: AsyncIterator[T], depth: int = 2) -> AsyncGenerator[T]:
    """Run an async iterator in a task of its own, up to ``depth`` items ahead of the consumer.

    An error of the iterator is raised in its place. Leaving early cancels the task.
    """
    queue: asyncio.Queue[object] = asyncio.Queue(maxsize=depth)

    async def produce() -> None:
        async for item in items:
            await queue.put(item)
        await queue.put(_END)

    producer = asyncio.create_task(produce())
    try:
        while True:
            if queue.empty():
                getter = asyncio.ensure_future(queue.get())
                await asyncio.wait({getter, producer}, return_when=asyncio.FIRST_COMPLETED)
                if not getter.done():
                    getter.cancel()
                    producer.result()
                item = await getter
            else:
                item = queue.get_nowait()
            if item is _END:
                return
            yield cast("T", item)
    finally:
        producer.cancel()
        await asyncio.wait({producer})


async def overlapped(
    items: Iterable[T], work: Callable[[T], Awaitable[None]], depth: int = 2
) -> None:
    """Work on items in their order of start, ``depth`` at a time; the first error ends all."""
    room = asyncio.Semaphore(depth)

    async def one(item: T) -> None:
        try:
            await work(item)
        finally:
            room.release()

    async with tasks() as group:
        for item in items:
            await room.acquire()
            group.create_task(one(item))


@asynccontextmanager
async def tasks() -> AsyncGenerator[asyncio.TaskGroup]:
    """A task group that raises the first error itself, not a group around it."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
