"""A process that carries out one sync and kills itself at a named stage."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from dataclasses import replace
from pathlib import Path

from agentcy_ray.context.factory import open_engine
from agentcy_ray.ingest.publish import Stores
from agentcy_ray.ingest.runner import SyncRunner
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database
from tests.ingest.harness import WordEmbedder


async def main(path: str) -> None:
    given = pickle.loads(Path(path).read_bytes())
    settings = given["settings"]
    db = await open_database(given["url"])
    stores = Stores(
        open_engine(settings, replace(given["endpoints"], database_url=given["url"])),
        PgVectorIndex(db, settings),
        SpaceStore(db, settings),
        OneEmbedder(WordEmbedder()),
        Chunkers(bundled_tokenizer(), settings),
        settings.embedding_model,
    )

    def probe(name: str) -> None:
        if name == given["stage"]:
            os.kill(os.getpid(), signal.SIGKILL)

    runner = SyncRunner(
        db, open_objects(settings), stores, given["source"].open, settings, probe=probe
    )
    await runner.run(given["org_id"], given["run_id"], "victim", Beat(given["claim"]))


asyncio.run(main(sys.argv[1]))
