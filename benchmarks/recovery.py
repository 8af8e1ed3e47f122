"""``recover_*_s``: from ``kill -9`` of a part to the next thing that needs it done, by a client.

One platform as ``agentcy up`` starts it, with the settings that ship; each part is killed in turn,
and what only that part can do is asked for until it is answered. The parts are the replicas of the
API and of the agents, an ingest worker, a session host, and the three embedded servers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2 as httpx
import psutil

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.patience import until
from agentcy_ray.cli.server import healthy
from agentcy_ray.cli.sources import watch
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.settings import Settings
from agentcy_ray.serve.launch import Running
from agentcy_ray.stores.embedded import status as embedded_status
from benchmarks.figures import Figure, absolute
from benchmarks.platform import running_platform

ROUNDS = 3
LIMIT_SECS = 180.0
LOOK_SECS = 5.0
"""A request that has no answer after it is made again: its connection may be to the dead."""

Use = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Part:
    """Something to kill, and what shows that it is back."""

    figure: str
    victims: Callable[[], list[psutil.Process]]
    use: Use
    """Fails or waits while the part is away."""
    again: bool
    """Whether ``use`` is asked again and again, or waits by itself."""


async def run() -> list[Figure]:
    """Kill each part ``ROUNDS`` times."""
    with (
        TemporaryDirectory(prefix="agb-") as folder,
        running_platform(source_file_roots=(folder,)) as (settings, running),
    ):
        async with Client(settings, running.url) as client:
            parts = await _parts(client, settings, running, Path(folder))
            return [await _figure(part, client) for part in parts]


async def _figure(part: Part, client: Client) -> Figure:
    took: list[float] = []
    for _ in range(ROUNDS):
        await healthy(client, LIMIT_SECS)
        await part.use()  # warm, so that a first use's cost is not counted
        victims = part.victims()
        if not victims:
            raise AgentcyError(f"{part.figure}: there is no process to kill")
        began = time.perf_counter()
        for victim in victims:
            victim.kill()
        psutil.wait_procs(victims, timeout=10)
        if part.again:
            await until(_patient(part.use), limit_secs=LIMIT_SECS, every_secs=0.02)
        else:
            await asyncio.wait_for(part.use(), LIMIT_SECS)
        took.append(time.perf_counter() - began)
    return absolute(part.figure, "s", took)


def _patient(use: Use) -> Callable[[], Awaitable[bool | None]]:
    async def look() -> bool | None:
        try:
            async with asyncio.timeout(LOOK_SECS):
                await use()
        except (AgentcyError, httpx.TransportError, TimeoutError):
            return None
        return True

    return look


async def _parts(client: Client, settings: Settings, running: Running, folder: Path) -> list[Part]:
    uses = _Uses(client)
    await uses.prepare(folder)

    def actors(name: str) -> Callable[[], list[psutil.Process]]:
        def find() -> list[psutil.Process]:
            below = psutil.Process(running.pid).children(recursive=True)
            return [process for process in below if name in _command(process)]

        return find

    def server(name: str) -> Callable[[], list[psutil.Process]]:
        def find() -> list[psutil.Process]:
            rows = embedded_status(settings)
            return [psutil.Process(row.pid) for row in rows if row.name == name and row.pid]

        return find

    return [
        Part("recover_api_s", actors("ray::ServeReplica:agentcy:api"), uses.caller, again=True),
        Part("recover_agent_s", actors("ray::ServeReplica:agentcy-agent:"), uses.ask, again=False),
        Part("recover_ingest_s", actors("ray::IngestWorker"), uses.sync, again=False),
        Part("recover_session_host_s", actors("ray::SessionHost"), uses.call_tool, again=True),
        Part("recover_postgres_s", server("postgres"), uses.caller, again=True),
        Part("recover_redis_s", server("redis"), uses.whole, again=True),
        Part("recover_graph_s", server("graph"), uses.query, again=True),
    ]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended while we looked
        return ""


class _Uses:
    """What a client does that needs a part."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._conversation = ""
        self._source = ""

    async def prepare(self, folder: Path) -> None:
        """A source to sync, one with tools, and a conversation."""
        table = folder / "rows.csv"
        table.write_text("id,name\n1,one\n")
        config = {"file_path": str(table), "node_label": "Row", "id_column": "id"}
        body = {"name": "rows", "connector": "csv", "config": config}
        self._source = (await self._client.post("/sources", body))["id"]
        demo = {"name": "desk", "connector": "demo", "config": {"entities": 10}}
        await self._client.post("/sources", demo)
        made = await self._client.post("/chat/conversations", {"title": "recovery"})
        self._conversation = made["id"]

    async def caller(self) -> None:
        """An authenticated answer, which needs API and Postgres."""
        await self._client.get("/auth/me")

    async def whole(self) -> None:
        """Every part well."""
        if (await self._client.health())["status"] != "ok":
            raise AgentcyError("a part is not well")

    async def query(self) -> None:
        """An answer of the graph."""
        await self._client.post("/context/query", {"query": "MATCH (n:Row) RETURN count(n) AS n"})

    async def ask(self) -> None:
        """A question answered to its end."""
        body = {"content": "Hello", "model": "scripted:tokens=3"}
        events = [event async for event in self._client.ask(self._conversation, body)]
        if events[-1].type != "message_end":
            raise AgentcyError(f"the run ended with {events[-1].type}")

    async def sync(self) -> None:
        """A sync from request to end."""
        started = await self._client.post(f"/sources/{self._source}/sync", {})
        run = await watch(self._client, started["sync_run_id"], quiet=True)
        if run["status"] != "synced":
            raise AgentcyError(f"the sync ended {run['status']}")

    async def call_tool(self) -> None:
        """A tool call with a result."""
        call = {
            "connector": "demo",
            "tool": "lookup",
            "source": "desk",
            "args": {"id": "service-0"},
        }
        path = f"/chat/conversations/{self._conversation}/tool-calls"
        answer = await self._client.post(path, call)
        if answer["status"] != "completed":
            raise AgentcyError(f"the call ended {answer['status']}")
