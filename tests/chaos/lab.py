"""A process with an executor and real gates over two connectors, which dies where it is told to.

``company`` is the demo connector on real sessions: its ledger counts effects, and it can be asked
what became of a key. ``lab`` writes one line for each effect and knows nothing of keys.

Also that process: ``python -m tests.chaos.lab '<json>'``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from agentcy_ray.agent.context_build import ContextBuilder
from agentcy_ray.agent.conversations import ConversationStore
from agentcy_ray.agent.executor import Executor
from agentcy_ray.agent.gates import Gates, open_gates
from agentcy_ray.agent.loop import AgentLoop, LoopParts
from agentcy_ray.agent.metatools import META_TOOLS
from agentcy_ray.agent.profiles import AgentStore
from agentcy_ray.agent.runlog import RunLog
from agentcy_ray.agent.runs import RunStore
from agentcy_ray.agent.turns import TurnStore
from agentcy_ray.connectors.demo import DemoConnector
from agentcy_ray.connectors.demo.ledger import FILE
from agentcy_ray.connectors.local_dispatch import LocalDispatcher
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.connectors.source_records import NewSource
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import ToolCall, ToolOutcome, ToolRequest
from agentcy_ray.llm.registry import Models
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.vault import Vault
from tests.agent.gateway.world import LabConnector, StillGraph
from tests.agent.loop.kit import Graph, Index
from tests.dispatch import OneByOne

ROOT = Path(__file__).parents[2]
LEASE_SECS = 60.0
"""Longer than any machine is too busy to renew it; the successor of the dead lets it end."""


class LabGraph(StillGraph, Graph):
    """An empty graph."""


@dataclass(frozen=True)
class Place:
    """Where a process finds its stores and leaves its effects."""

    url: str
    redis_url: str
    redis_prefix: str
    state_dir: str

    def effects(self) -> list[str]:
        """Everything that truly happened, ``tool target``, in order."""
        done: list[str] = []
        own = Path(self.state_dir) / "lab"
        if own.exists():
            done += own.read_text().splitlines()
        for ledger in sorted(Path(self.state_dir).rglob(FILE)):
            entries = map(orjson.loads, ledger.read_bytes().splitlines())
            done += [f"{entry['tool']} {entry['target']}" for entry in entries]
        return done


class Tools(OneByOne):
    """The demo's calls go to real sessions, the lab's into a file."""

    def __init__(self, place: Place, sessions: LocalDispatcher) -> None:
        super().__init__()
        self._file = Path(place.state_dir) / "lab"
        self._sessions = sessions

    async def call(self, request: ToolRequest) -> ToolOutcome:
        if request.connector == "demo":
            return await self._sessions.call(request)
        with self._file.open("a") as file:
            file.write(f"{request.tool} {request.args['id']}\n")
        value = {"done": request.tool}
        return ToolOutcome(tool_call_id=request.tool_call_id, ok=True, value=value)

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        await self._sessions.abandon([c for c in calls if c.connector == "demo"])

    async def close(self) -> None:
        await self._sessions.close()


@dataclass
class Assembly:
    """The parts of one process."""

    executor: Executor
    gates: Gates
    sources: SourceStore
    runs: RunStore
    log: RunLog
    tools: Tools

    async def offer(self, owner: Principal) -> None:
        """Give the organisation a source of each connector."""
        for name, connector in (("bench", "lab"), ("company", "demo")):
            await self.sources.create(
                owner, NewSource(name=name, connector=connector, realm="development")
            )


@asynccontextmanager
async def assembled(place: Place, *, poll_secs: float = 0.2) -> AsyncIterator[Assembly]:
    """Everything that an executor needs, over the stores of ``place``."""
    settings = Settings.load(
        {}, agentcy_state_dir=place.state_dir, redis_prefix=place.redis_prefix,
        approval_poll_secs=poll_secs,
    )  # fmt: skip
    db = await open_database(place.url, pool_max=8)
    redis = await open_redis(place.redis_url, place.redis_prefix)
    bell, vault = Bell(redis), Vault(bytes(32))
    registry = Registry([LabConnector(), DemoConnector()], settings)
    sources = SourceStore(db, vault, registry, bell)
    tools = Tools(place, LocalDispatcher(SessionPool(sources)))
    graph: Any = LabGraph()
    index: Any = Index()
    gates = open_gates(
        db, bell, settings, sources=sources, dispatcher=tools, search=index, engine=graph,
        objects=open_objects(settings), vault=vault,
    )  # fmt: skip
    log = RunLog(db, bell, settings)
    runs = RunStore(db, bell, log)
    loop = AgentLoop(
        LoopParts(
            settings=settings,
            runs=runs,
            log=log,
            turns=TurnStore(db, log),
            agents=AgentStore(db),
            models=Models(settings),
            context=ContextBuilder(graph, index, ConversationStore(db)),
            tools=gates.meta,
            offers=META_TOOLS,
            approvals=gates.approvals,
        )
    )
    executor = Executor(runs, loop, bell, lease_secs=LEASE_SECS, renew_secs=0.3, poll_secs=0.2)
    try:
        yield Assembly(executor, gates, sources, runs, log, tools)
    finally:
        await gates.close()
        await tools.close()
        await bell.aclose()
        await redis.aclose()
        await db.close()


# -- the process that dies -----------------------------------------------------------------------

POINTS = {
    "asked": ("gates.approvals", "announce", "before"),
    "heard": ("gates.approvals", "use", "before"),
    "used": ("gates.approvals", "use", "after"),
    "voted": ("gates.approvals", "announce", "before"),
    "intended": ("tools", "call", "before"),
    "happened": ("tools", "call", "after"),
    "received": ("gates.calls", "end", "after"),
    "witnessed": ("gates.audit", "append", "after"),
}
"""Name → the part and the method of it whose call the process dies at."""


def die_at(assembly: Assembly, point: str) -> None:
    """Make the process kill itself, as ``kill -9`` does, when it comes to ``point``."""
    path, name, when = POINTS[point]
    part: Any = assembly
    for attribute in path.split("."):
        part = getattr(part, attribute)
    method = getattr(part, name)

    async def deadly(*args: Any, **more: Any) -> Any:
        if when == "after":
            await method(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(part, name, deadly)


@dataclass(frozen=True)
class Task:
    """What a process is started for: executing runs, or one of these."""

    point: str | None = None
    approve: str | None = None
    """Id of an approval to decide, and then nothing else."""
    call: dict[str, Any] | None = None
    """A direct call to make, and to wait for."""
    principal: dict[str, Any] | None = None


async def spawned(place: Place, task: Task) -> asyncio.subprocess.Process:
    """A process at work; it ends by the signal that it gives itself, or by the test's."""
    given = json.dumps([asdict(place), asdict(task)])
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.lab", given, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )


async def _main(place: Place, task: Task) -> None:
    async with assembled(place) as assembly:
        if task.point is not None:
            die_at(assembly, task.point)
        if task.principal is None:
            await assembly.executor.run(asyncio.Event())
            return
        principal = Principal.model_validate(task.principal)
        if task.approve is not None:
            await assembly.gates.approvals.decide(
                principal, UUID(task.approve), approved=True, via="cli"
            )
        if task.call is not None:
            call = ToolCall(**task.call)
            result = await assembly.gates.direct.call(
                principal, None, call, realm="development", request_id="req_direct"
            )
            sys.stdout.write(f"{result.status} {result.tool_call_id.hex}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()


if __name__ == "__main__":
    _place, _task = json.loads(sys.argv[1])
    asyncio.run(_main(Place(**_place), Task(**_task)))
