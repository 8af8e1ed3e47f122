"""Killing processes of the lab, and what has to hold of a run afterwards."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agentcy_ray.agent.run_records import Run
from agentcy_ray.audit.log import AuditFilter, AuditLog
from agentcy_ray.core.events import EventType, RunEvent
from agentcy_ray.llm.scripted import scripted_reference
from tests.agent.loop.conftest import World
from tests.agent.loop.kit import log_of, of
from tests.chaos.lab import Assembly, Place, Task, assembled, spawned

BOUND_SECS = 60
PROBED, UNPROBED = "demo.restart_service", "lab.stir"
"""A tool that can be asked what became of a call, and one that cannot."""
ARGS = {PROBED: {"service": "service-0"}, UNPROBED: {"id": "flask-1"}}
EFFECT = {PROBED: "restart_service service-0", UNPROBED: "stir flask-1"}


@asynccontextmanager
async def lab(
    world: World, folder: Path, *, write: str = "approve", redis_url: str | None = None
) -> AsyncIterator[tuple[Place, Assembly]]:
    """Sources with tools, and the parts of a process beside the one that dies."""
    async with world.db.system() as connection:
        await connection.execute(
            "UPDATE organizations SET settings = $1", {"approval_defaults": {"write": write}}
        )
    redis = redis_url or world.redis_url
    place = Place(world.url, redis, world.redis_prefix, str(folder))
    async with assembled(place) as assembly:
        await assembly.offer(world.principal)
        yield place, assembly


async def started(world: World, tool: str) -> Run:
    """A run whose model calls one tool and then says that it is done."""
    return await world.start(model=scripted_reference(tools=tool, args=ARGS, text="Done."))


async def seen(world: World, run: Run, wanted: EventType) -> RunEvent:
    """The first event of a kind."""
    async with asyncio.timeout(BOUND_SECS):
        async for event in world.log.follow(world.org_id, run.id):
            if event is not None and event.type is wanted:
                return event
    raise AssertionError(f"the log ended without {wanted}")


async def dead(process: asyncio.subprocess.Process) -> None:
    """Return when the process has killed itself, and not ended in any other way."""
    async with asyncio.timeout(BOUND_SECS):
        assert await process.wait() == -signal.SIGKILL


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await dead(process)


async def victim(place: Place, point: str | None = None) -> asyncio.subprocess.Process:
    """An executor that dies at ``point``, or by the test's hand."""
    return await spawned(place, Task(point=point))


async def approve(world: World, assembly: Assembly) -> None:
    """Decide the one approval that waits."""
    (approval,) = await assembly.gates.approvals.list(world.principal, status="pending")
    await assembly.gates.approvals.decide(world.principal, approval.id, approved=True, via="api")


@asynccontextmanager
async def executing(assembly: Assembly) -> AsyncIterator[None]:
    """The successor at work, once the leases of the dead have ended."""
    async with assembly.runs._db.system() as connection:
        await connection.execute(
            "UPDATE runs SET lease_until = now() - interval '1 second'"
            " WHERE lease_until IS NOT NULL"
        )
    stop = asyncio.Event()
    task = asyncio.create_task(assembly.executor.run(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(BOUND_SECS):
            await task


async def finished(world: World, run: Run) -> list[RunEvent]:
    """The whole log, once the run has ended."""
    async with asyncio.timeout(BOUND_SECS):
        async for _ in world.log.follow(world.org_id, run.id):
            continue
    return await log_of(world, run)


async def holds(
    world: World, place: Place, run: Run, tool: str, *, times: int = 1, status: str = "completed",
    approvals: int = 1,
) -> None:  # fmt: skip
    """One effect (or as many as said), told once, decided once, audited once."""
    events = await finished(world, run)
    assert place.effects() == [EFFECT[tool]] * times
    (start,) = of(events, EventType.TOOL_CALL_START)
    (result,) = of(events, EventType.TOOL_RESULT)
    assert (result["status"], result["tool_call_id"]) == (status, start["tool_call_id"])
    asked, resolved = (
        of(events, type_) for type_ in (EventType.APPROVAL_REQUIRED, EventType.APPROVAL_RESOLVED)
    )
    assert (len(asked), len(resolved)) == (approvals, approvals)
    assert [event["status"] for event in resolved] == ["approved"] * approvals
    assert await audited(world, "chat.tool.execute") == [status]
    assert (await world.runs.get(world.principal, run.id)).status == "completed"
    async with world.db.tenant(world.org_id) as connection:
        left = await connection.fetch("SELECT status FROM approvals")
    assert [row["status"] for row in left] == ["consumed"] * approvals


async def audited(world: World, action: str) -> Sequence[str]:
    """The statuses in the audit entries of an action, oldest first."""
    found = await AuditLog(world.db).list(world.org_id, AuditFilter(action=action))
    return [entry.resource["status"] for entry in reversed(found)]
