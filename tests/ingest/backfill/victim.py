"""A process that carries out a backfill and kills itself at a named point, when it comes there."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from pathlib import Path

from agentcy_ray.ingest.backfill.runner import Backfiller
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database
from tests.ingest.backfill.filling import HookedEmbedder, Models, PlainFinisher


async def main(path: str) -> None:
    given = pickle.loads(Path(path).read_bytes())
    settings = given["settings"]
    db = await open_database(given["url"])
    left = given["left"]
    texts = Path(given["texts"])

    def probe(name: str) -> None:
        nonlocal left
        left -= name == given["point"]
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    model = HookedEmbedder()

    async def told(some: object) -> None:
        with texts.open("a") as file:  # what was embedded outlives the process
            file.write("".join(f"{text!r}\n" for text in some))  # type: ignore[attr-defined]

    model.hook = told
    drivers = {}
    if given["engine"] == "ray-data":
        import ray

        from agentcy_ray.runtime.backfill_data import RayDataDriver
        from agentcy_ray.runtime.cluster import NAMESPACE
        from agentcy_ray.runtime.cluster_config.parts import EmbeddingActors

        ray.init(address=given["ray"], namespace=NAMESPACE, log_to_driver=False)
        drivers["ray-data"] = RayDataDriver(settings, given["url"], EmbeddingActors())
    filler = Backfiller(
        db=db,
        objects=open_objects(settings),
        spaces=SpaceStore(db, settings),
        embedders=Models({model.info.reference: model}),
        chunkers=Chunkers(bundled_tokenizer(), settings),
        finisher=PlainFinisher(db),
        settings=settings,
        drivers=drivers,
        probe=probe,
    )
    await filler.handle(given["job"], Beat(1, last_attempt=False))


asyncio.run(main(sys.argv[1]))
