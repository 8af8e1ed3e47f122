"""A process that carries a migration out and kills itself at a named point, seen so many times."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from pathlib import Path

from agentcy_ray.context.migration.opening import open_router
from agentcy_ray.ingest.migration.runner import MigrationRunner
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database


async def main(path: str) -> None:
    given = pickle.loads(Path(path).read_bytes())
    settings = given["settings"]
    db = await open_database(given["url"])
    left = given["times"]

    def probe(name: str) -> None:
        nonlocal left
        left -= name == given["stage"]
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    router = open_router(settings, given["endpoints"], db)
    runner = MigrationRunner(
        db, router, open_objects(settings), settings, probe=probe, grace_secs=0.05
    )
    await runner.run(given["org_id"], given["migration_id"], Beat(1))


asyncio.run(main(sys.argv[1]))
