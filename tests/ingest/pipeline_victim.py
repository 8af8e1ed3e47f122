"""A process that takes records for a pipeline, says so, and is gone at once."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from pathlib import Path

from agentcy_ray.ingest.continuous.flush import Flusher
from agentcy_ray.ingest.continuous.ledger import Ledger
from agentcy_ray.ingest.continuous.mapping import RowMaker
from agentcy_ray.ingest.continuous.taking import take
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database


async def main(path: str) -> None:
    given = pickle.loads(Path(path).read_bytes())
    settings, pipeline = given["settings"], given["pipeline"]
    db = await open_database(given["url"])
    maker = RowMaker(
        pipeline.target_table, pipeline.mapping, realm=pipeline.realm, pipeline_id=pipeline.id
    )
    flusher = Flusher(open_objects(settings), Ledger(db, PostgresQueue(settings, db)))
    taken, rows = take(maker, enumerate(given["records"], start=1))
    answer = await flusher.add(pipeline, taken, rows)
    os.write(1, answer.body["run_id"].encode())
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main(sys.argv[1]))
