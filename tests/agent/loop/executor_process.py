"""An executor with real gates over a connector whose effects are lines of a file.

Also a process of its own, to be killed: ``python -m tests.agent.loop.executor_process '<json>'``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentcy_ray.agent.context_build import ContextBuilder
from agentcy_ray.agent.conversations import ConversationStore
from agentcy_ray.agent.executor import Executor
from agentcy_ray.agent.gates import Gates, open_gates
from agentcy_ray.agent.loop import AgentLoop, LoopParts
from agentcy_ray.agent.metatools import META_TOOLS
from agentcy_ray.agent.profiles import AgentStore
from agentcy_ray.agent.runlog import RunLog
from agentcy_ray.agent.runs import RunStore
from agentcy_ray.agent.spending import Spending, open_spending
from agentcy_ray.agent.turns import TurnStore
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolOutcome, ToolRequest
from agentcy_ray.llm.registry import Models
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.vault import Vault
from tests.agent.gateway.world import LabConnector, StillGraph
from tests.agent.loop.kit import Graph, Index
from tests.dispatch import OneByOne

HANG = "hang"
"""A call with this id has its effect and never answers."""
HUNG_CHANNEL = "ch:hung"
"""Rung when it has had its effect."""
LEASE_SECS = 60.0
"""Longer than any machine is too busy to renew it; the successor of the dead lets it end."""


class LabGraph(StillGraph, Graph):
    """An empty graph."""


@dataclass(frozen=True)
class Place:
    """Where an executor finds its stores and leaves its effects."""

    url: str
    redis_url: str
    redis_prefix: str
    state_dir: str

    @property
    def effects(self) -> Path:
        return Path(self.state_dir) / "effects"

    def done(self) -> list[str]:
        """Effects so far, ``tool id`` in order."""
        return self.effects.read_text().splitlines() if self.effects.exists() else []


class Lab(OneByOne):
    """Carries calls out by writing a line."""

    def __init__(self, place: Place, bell: Bell, *, may_hang: bool) -> None:
        super().__init__()
        self._place = place
        self._bell = bell
        self._may_hang = may_hang
        self.answer: Callable[[ToolRequest], Any] = lambda request: {"done": request.tool}

    async def call(self, request: ToolRequest) -> ToolOutcome:
        with self._place.effects.open("a") as file:
            file.write(f"{request.tool} {request.args['id']}\n")
        if self._may_hang and request.args["id"] == HANG:
            await self._bell.ring(HUNG_CHANNEL, {"id": HANG})
            await asyncio.Event().wait()
        return ToolOutcome(tool_call_id=request.tool_call_id, ok=True, value=self.answer(request))


@dataclass
class Assembly:
    """A process."""

    executor: Executor
    gates: Gates
    sources: SourceStore
    runs: RunStore
    log: RunLog
    lab: Lab
    spending: Spending


@asynccontextmanager
async def assembled(place: Place, *, may_hang: bool = False) -> AsyncIterator[Assembly]:
    """Everything that an executor needs, over the stores of ``place``."""
    settings = Settings.load(
        {},
        agentcy_state_dir=place.state_dir,
        redis_prefix=place.redis_prefix,
        approval_poll_secs=0.2,
        budget_turn_output_tokens=1000,
    )
    db = await open_database(place.url, pool_max=8)
    redis = await open_redis(place.redis_url, place.redis_prefix)
    bell = Bell(redis)
    sources = SourceStore(db, Vault(bytes(32)), Registry([LabConnector()], settings), bell)
    graph, index = LabGraph(), Index()
    lab = Lab(place, bell, may_hang=may_hang)
    gates = open_gates(
        db,
        bell,
        settings,
        sources=sources,
        dispatcher=lab,
        search=index,  # type: ignore[arg-type]
        engine=graph,  # type: ignore[arg-type]
        objects=open_objects(settings),
    )
    log = RunLog(db, bell, settings)
    runs = RunStore(db, bell, log)
    models = Models(settings)
    spending = open_spending(db, settings, bell, models, gates)
    loop = AgentLoop(
        LoopParts(
            settings=settings,
            runs=runs,
            log=log,
            turns=TurnStore(db, log),
            agents=AgentStore(db),
            models=models,
            context=ContextBuilder(graph, index, ConversationStore(db)),  # type: ignore[arg-type]
            tools=gates.meta,
            offers=META_TOOLS,
            approvals=gates.approvals,
            spending=spending,
        )
    )
    executor = Executor(runs, loop, bell, lease_secs=LEASE_SECS, renew_secs=0.3, poll_secs=0.2)
    try:
        yield Assembly(executor, gates, sources, runs, log, lab, spending)
    finally:
        await spending.ledger.close()
        await gates.close()
        await bell.aclose()
        await redis.aclose()
        await db.close()


async def spawned(place: Place) -> asyncio.subprocess.Process:
    """The same as a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.agent.loop.executor_process", json.dumps(asdict(place))
    )


async def _main() -> None:
    async with assembled(Place(**json.loads(sys.argv[1])), may_hang=True) as assembly:
        await assembly.executor.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(_main())
