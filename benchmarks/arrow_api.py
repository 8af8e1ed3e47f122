"""The API in a process of its own, over stores and a kyma that are there: no Ray, no tools.

``python -m benchmarks.arrow_api FILE``: FILE is a pickle of (settings, endpoints). Prints its URL.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys
from pathlib import Path

import uvicorn
import uvloop

from agentcy_ray.api.app import create_app
from agentcy_ray.api.services import Services, open_services
from agentcy_ray.connectors.local_dispatch import LocalDispatcher
from agentcy_ray.connectors.registry import builtin_registry
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core import interpreter
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.postgres import open_database


async def serve(settings: Settings, endpoints: Endpoints) -> None:
    """Serve until the process is ended."""
    db = await open_database(endpoints.database_url, pool_max=2)
    vault = open_vault(settings)
    pool = SessionPool(SourceStore(db, vault, builtin_registry(settings)))
    embedder = await asyncio.to_thread(LocalEmbedder.load, settings, threads=1)

    async def nothing(*_: object) -> None:
        """No source is reached here."""

    async def opener() -> Services:
        return await open_services(
            settings, endpoints, dispatcher=LocalDispatcher(pool), embedder=embedder,
            check_source=nothing,
        )  # fmt: skip

    interpreter.settle()  # as a replica does
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(create_app(settings, opener), log_config=None, access_log=False)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    given: tuple[Settings, Endpoints] = pickle.loads(Path(sys.argv[1]).read_bytes())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(*given))
