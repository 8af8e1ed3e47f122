"""``approval_wake_ms``: from a person's decision to the resumed loop, across two processes.

Subject: a run of the agent loop waits in another process, as the replica of a platform does; the
clock runs from the call of ``decide`` here, whose transaction counts, to the dispatch of the tool
there: policy asked again, approval used up, intent committed. Twenty further runs wait meanwhile.
Control: a payload published on the same Redis, heard by the same process.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agentcy_ray.agent.run_records import NewRun, Run
from agentcy_ray.api.services import Services, open_services
from agentcy_ray.connectors.calls import Told
from agentcy_ray.connectors.source_records import NewSource
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import decode
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolOutcome, ToolRequest
from agentcy_ray.llm.scripted import scripted_reference
from agentcy_ray.retrieval.embedder import EmbedderInfo, Vectors, vectors_of
from agentcy_ray.stores.resolve import resolve_endpoints
from benchmarks.figures import Figure, absolute, compared
from benchmarks.stores import Bench, fresh_stores

DECISIONS, ROUNDS, OTHERS = 100, 5, 20
PING = "ch:bench:wake"


async def run() -> list[Figure]:
    """Median and 99th percentile of all decisions."""
    subject: list[float] = []
    control: list[float] = []
    async with fresh_stores() as bench, _waiting_process(bench) as child:
        services = await _services(bench.settings, _Clock())
        try:
            await _offer(bench, services)
            for _ in range(OTHERS):
                await _asked(services, bench, await _started(services, bench))
            for number in range(ROUNDS):
                control += [await _rung(services, child) for _ in range(DECISIONS)]
                subject += [await _decided(services, bench, child) for _ in range(DECISIONS)]
                _say(f"round {number + 1}: median {statistics.median(subject):.2f} ms")
        finally:
            await services.close()
    high = float(np.percentile(subject, 99))
    return [
        absolute("approval_wake_ms", "ms", subject, at_most=5),
        absolute("approval_wake_p99_ms", "ms", [high], at_most=20),
        compared("approval_wake_vs_ring", "ms", "bare Redis ring", subject, control),
    ]


async def _decided(services: Services, bench: Bench, child: _Child) -> float:
    """Milliseconds from one decision to the dispatch of its call."""
    approval_id = await _asked(services, bench, await _started(services, bench))
    began = time.monotonic_ns()
    await services.gates.approvals.decide(bench.owner, approval_id, approved=True, via="api")
    return (await child.heard("dispatched") - began) / 1e6


async def _rung(services: Services, child: _Child) -> float:
    began = time.monotonic_ns()
    await services.bell.ring(PING, {})
    return (await child.heard("rung") - began) / 1e6


async def _offer(bench: Bench, services: Services) -> None:
    new = NewSource(name="company", connector="demo", realm="default", config={"entities": 8})
    await services.sources.create(bench.owner, new)


async def _started(services: Services, bench: Bench) -> Run:
    agents = await services.agents.list(bench.owner.org_id)
    tool = "demo.restart_service"
    model = scripted_reference(tools=tool, args={tool: {"service": "service-0"}})
    new = NewRun(
        agent=agents[0],
        conversation_id=None,
        model=model,
        text="Restart it.",
        request_id="req_bench",
    )
    return (await services.runs.start(bench.owner, new)).run


async def _asked(services: Services, bench: Bench, run: Run) -> Any:
    """The id of the run's approval, once the loop waits for it."""
    async with asyncio.timeout(30):
        async for event in services.run_log.follow(bench.owner.org_id, run.id):
            if event is not None and event.type is EventType.APPROVAL_REQUIRED:
                return decode("apr", str(event.data["approval_id"]))
            if event is not None and event.terminal:
                raise RuntimeError(f"the run ended without asking: {event.data}")
    raise RuntimeError("the run's log ended")


# -- the process that waits ----------------------------------------------------------------------


class _Child:
    """The waiting process, seen from the deciding one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def heard(self, what: str) -> int:
        """When the next report of this kind was made: monotonic nanoseconds, one clock for all."""
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            kind, _, at = (await self._process.stdout.readline()).decode().partition(" ")
        if kind != what:
            raise RuntimeError(f"the waiting process said {kind!r} in place of {what!r}")
        return int(at)


@asynccontextmanager
async def _waiting_process(bench: Bench) -> AsyncGenerator[_Child]:
    given = json.dumps({"state_dir": str(bench.settings.state_dir)})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.approval_wake", given,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    try:
        child = _Child(process)
        await child.heard("ready")
        yield child
    finally:
        process.terminate()
        await process.wait()


class _Clock:
    """A dispatcher that reports when it is reached."""

    async def call(self, request: ToolRequest) -> ToolOutcome:
        _report("dispatched")
        return ToolOutcome(tool_call_id=request.tool_call_id, ok=True, value={})

    async def send(
        self, requests: Sequence[ToolRequest], told: Callable[[ToolRequest, Told], None]
    ) -> None:
        for request in requests:
            told(request, await self.call(request))

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        pass

    async def close(self) -> None:
        pass


class _NoEmbedder:
    """Nothing is embedded: tools are not searched here."""

    info = EmbedderInfo("local:none", "none/8", 8, 512)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return vectors_of(np.ones((len(texts), 8), np.float32))


async def _services(settings: Settings, dispatcher: _Clock) -> Services:
    async def unchecked(*_: Any) -> None:
        return None

    return await open_services(
        settings,
        await resolve_endpoints(settings),
        dispatcher=dispatcher,
        embedder=_NoEmbedder(),
        check_source=unchecked,
    )


def _report(kind: str) -> None:
    sys.stdout.write(f"{kind} {time.monotonic_ns()}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


async def _wait_for_decisions(state_dir: str) -> None:
    settings = Settings.load({}, agentcy_state_dir=Path(state_dir))
    services = await _services(settings, _Clock())
    stop = asyncio.Event()
    async with services.bell.listen(PING) as ear:
        work = asyncio.create_task(services.executor(100).run(stop))
        _report("ready")
        while not work.done():
            if await ear.next(1) is not None:
                _report("rung")
        await work


if __name__ == "__main__":
    asyncio.run(_wait_for_decisions(**json.loads(sys.argv[1])))
