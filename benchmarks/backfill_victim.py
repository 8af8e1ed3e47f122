"""A process that goes on with a backfill until it is killed, and counts what it embeds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.backfill.runner import Backfiller
from agentcy_ray.ingest.backfill.store import BackfillStore
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.embedder import Embedded, EmbedderInfo, Vectors
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.scripted_embedder import Script, ScriptedEmbedder
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database
from benchmarks.backfill_space import NoFinish


class Counting:
    """The scripted model; a line in a file says how many texts each call had."""

    def __init__(self, counted: Path) -> None:
        self._inner = ScriptedEmbedder(Script.read("dim=384,seed=7"))
        self._file = counted.open("a", buffering=1)  # a line outlives the process

    @property
    def info(self) -> EmbedderInfo:
        """The scripted model's."""
        return self._inner.info

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As the scripted model."""
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """As the scripted model, and counted."""
        if texts:
            self._file.write(f"{len(texts)}\n")
        return await self._inner.embed_metered(texts)


async def main(state: str, url: str, org: str, backfill: str, counted: str) -> None:
    """Carry the backfill out, or go on with it."""
    settings = Settings.load({}, agentcy_state_dir=Path(state))
    db = await open_database(url)
    spaces, queue = SpaceStore(db, settings), PostgresQueue(settings, db)
    asked = await BackfillStore(db, queue, spaces).get(UUID(org), UUID(backfill))
    assert asked.job_id is not None
    filler = Backfiller(
        db, open_objects(settings), spaces, OneEmbedder(Counting(Path(counted))),
        Chunkers(bundled_tokenizer(), settings), NoFinish(), settings, {},
    )  # fmt: skip
    job = await queue.store.get(asked.org_id, asked.job_id)
    await filler.handle(job, Beat(1, last_attempt=False))
    await db.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
