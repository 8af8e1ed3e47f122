"""A process that carries a swap out and kills itself when it comes to a named point."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

from agentcy_ray.ingest.publish import Stores
from agentcy_ray.ingest.swap.store import Swaps
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.redis import open_redis
from tests.ingest.backfill.filling import Models
from tests.ingest.harness import House, WordEmbedder
from tests.ingest.memory_source import MemorySource
from tests.ingest.swap.swapping import NEW, OLD, carried_out, carriers, scripted


async def main(path: str) -> None:
    given = pickle.loads(Path(path).read_bytes())
    settings = given["settings"]
    db = await open_database(given["url"])
    redis = await open_redis(given["redis"], "victim")
    old, new = scripted(OLD), scripted(NEW)
    models = Models({old.info.reference: old, new.info.reference: new})
    graph: Any = None  # a swap has nothing to do with it
    stores = Stores(
        graph, PgVectorIndex(db, settings), SpaceStore(db, settings), models,
        Chunkers(bundled_tokenizer(), settings), old.info.reference,
    )  # fmt: skip
    house = House(
        db, settings, open_objects(settings), stores, WordEmbedder(), MemorySource(),
        given["org_id"], given["org_id"],
    )  # fmt: skip
    texts = Path(given["texts"])

    async def told(some: object) -> None:
        with texts.open("a") as file:  # what was embedded outlives the process
            file.write("".join(f"{text!r}\n" for text in some))  # type: ignore[attr-defined]

    new.hook = told

    def probe(name: str) -> None:
        if name == given["point"]:
            os.kill(os.getpid(), signal.SIGKILL)

    runner, filler = carriers(house, Bell(redis), models, probe)
    swap = await Swaps(db).get(given["org_id"], given["swap_id"])
    await carried_out(runner, filler, swap)


asyncio.run(main(sys.argv[1]))
