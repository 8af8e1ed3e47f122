"""The default driver: lanes in this process over the embedder, which may be a pool of actors.

A lane embeds a block and writes it, then takes the next; what is ahead of the lanes is chunked on a
thread. With two lanes the model works on one block while the other is written, and each lane holds
one block: that is all that a killed worker does again.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from agentcy_ray.ingest.backfill.reading import Cut
from agentcy_ray.ingest.backfill.work import Work
from agentcy_ray.ingest.pipeline import tasks

_END = object()


class Coordinator:
    """Drives blocks through an embedder."""

    async def run(self, work: Work) -> int:
        """Take every open block once; see ``Driver``."""
        lanes = work.backfill.options.lanes
        ready: asyncio.Queue[object] = asyncio.Queue(maxsize=1)
        done: list[int] = []

        async def read() -> None:
            async with aclosing(work.reader.cuts(depth=lanes)) as cuts:
                async for cut in cuts:
                    await ready.put(cut)
            for _ in range(lanes):
                await ready.put(_END)

        async def lane() -> None:
            while isinstance(cut := await ready.get(), Cut):
                block = await work.embedding.embed(await work.sink.wanted(cut))
                if await work.write(block):
                    done.append(cut.block.no)

        async with tasks() as group:
            group.create_task(read())
            for _ in range(lanes):
                group.create_task(lane())
        return len(done)
