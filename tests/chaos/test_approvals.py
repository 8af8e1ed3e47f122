"""Processes killed while an approval is asked for, waited for, decided and used."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from uuid import UUID

import pytest

from agentcy_ray.core.events import EventType
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolStatus
from agentcy_ray.stores.embedded import ensure_embedded, stop_embedded
from tests.agent.loop.conftest import World
from tests.chaos.kills import (
    ARGS,
    BOUND_SECS,
    EFFECT,
    PROBED,
    UNPROBED,
    approve,
    audited,
    dead,
    executing,
    holds,
    kill,
    lab,
    seen,
    started,
    victim,
)
from tests.chaos.lab import Task, spawned

pytestmark = pytest.mark.chaos


async def test_killed_before_it_told_anybody_the_question_is_told_by_the_successor(
    world: World, tmp_path: Path
) -> None:
    async with lab(world, tmp_path) as (place, assembly):
        run = await started(world, UNPROBED)
        await dead(await victim(place, "asked"))
        async with executing(assembly):
            await seen(world, run, EventType.APPROVAL_REQUIRED)
            await approve(world, assembly)
            await holds(world, place, run, UNPROBED)


@pytest.mark.requirement("APR-10")
@pytest.mark.requirement("CLU-05")
async def test_killed_while_it_waits_the_decision_takes_effect_once(
    world: World, tmp_path: Path
) -> None:
    async with lab(world, tmp_path) as (place, assembly):
        run = await started(world, UNPROBED)
        process = await victim(place)
        await seen(world, run, EventType.APPROVAL_REQUIRED)
        await kill(process)
        await approve(world, assembly)
        async with executing(assembly):
            await holds(world, place, run, UNPROBED)


async def test_killed_when_it_hears_the_decision_the_approval_is_used_by_the_successor(
    world: World, tmp_path: Path
) -> None:
    async with lab(world, tmp_path) as (place, assembly):
        run = await started(world, UNPROBED)
        process = await victim(place, "heard")
        await seen(world, run, EventType.APPROVAL_REQUIRED)
        await approve(world, assembly)
        await dead(process)
        async with executing(assembly):
            await holds(world, place, run, UNPROBED)


async def test_killed_when_the_approval_is_used_up_a_tool_that_can_be_asked_acts_once(
    world: World, tmp_path: Path
) -> None:
    async with lab(world, tmp_path) as (place, assembly):
        run = await started(world, PROBED)
        process = await victim(place, "used")
        await seen(world, run, EventType.APPROVAL_REQUIRED)
        await approve(world, assembly)
        await dead(process)
        assert place.effects() == []
        async with executing(assembly):
            await holds(world, place, run, PROBED)


async def test_killed_when_the_approval_is_used_up_another_tool_is_not_called_blindly(
    world: World, tmp_path: Path
) -> None:
    async with lab(world, tmp_path) as (place, assembly):
        run = await started(world, UNPROBED)
        process = await victim(place, "used")
        await seen(world, run, EventType.APPROVAL_REQUIRED)
        await approve(world, assembly)
        await dead(process)
        async with executing(assembly):
            await holds(world, place, run, UNPROBED, times=0, status="indeterminate")


async def test_a_waiter_that_was_only_stopped_does_nothing_after_its_successor(
    world: World, tmp_path: Path
) -> None:
    async with lab(world, tmp_path) as (place, assembly):
        run = await started(world, UNPROBED)
        process = await victim(place)
        assert process.stdout is not None
        await seen(world, run, EventType.APPROVAL_REQUIRED)
        process.send_signal(signal.SIGSTOP)
        await approve(world, assembly)
        async with executing(assembly):
            await holds(world, place, run, UNPROBED)
        process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(BOUND_SECS):
            while b"run_left" not in await process.stdout.readline():
                assert not process.stdout.at_eof()
        await kill(process)
        await holds(world, place, run, UNPROBED)


async def test_a_decider_killed_before_it_rang_has_decided_all_the_same(
    world: World, tmp_path: Path
) -> None:
    async with lab(world, tmp_path) as (place, assembly):
        run = await started(world, UNPROBED)
        async with executing(assembly):
            await seen(world, run, EventType.APPROVAL_REQUIRED)
            (approval,) = await assembly.gates.approvals.list(world.principal)
            owner = world.principal.model_dump(mode="json")
            task = Task(point="voted", approve=str(approval.id), principal=owner)
            await dead(await spawned(place, task))
            await holds(world, place, run, UNPROBED)
        assert await audited(world, "chat.approve") == []
        await assembly.gates.approvals._audit.repair(0)
        assert len(await audited(world, "chat.approve")) == 1


@pytest.mark.requirement("APR-11")
async def test_with_redis_gone_while_it_is_pending_the_decision_resumes_the_run(
    world: World, tmp_path: Path
) -> None:
    settings = Settings.load({}, agentcy_state_dir=tmp_path / "redis")
    endpoints = await ensure_embedded(settings, frozenset({"redis"}))
    try:
        async with lab(world, tmp_path, redis_url=endpoints.redis_url) as (place, assembly):
            run = await started(world, UNPROBED)
            async with executing(assembly):
                await seen(world, run, EventType.APPROVAL_REQUIRED)
                await stop_embedded(settings)
                await approve(world, assembly)
                await holds(world, place, run, UNPROBED)
    finally:
        await stop_embedded(settings)


async def test_a_direct_call_whose_process_is_killed_is_made_once_by_the_others(
    world: World, tmp_path: Path
) -> None:
    async with lab(world, tmp_path) as (place, assembly):
        task = Task(
            call={
                "connector": "lab", "tool": "stir",
                "args": {**ARGS[UNPROBED], "password": "correct horse"},
            },
            principal=world.principal.model_dump(mode="json"),
        )  # fmt: skip
        process = await spawned(place, task)
        assert process.stdout is not None
        async with asyncio.timeout(BOUND_SECS):
            while not (line := await process.stdout.readline()).startswith(b"waiting_approval"):
                assert not process.stdout.at_eof()
        await kill(process)
        await approve(world, assembly)
        direct = assembly.gates.direct
        await asyncio.gather(*(direct.sweep(orphan_secs=0) for _ in range(3)))
        assert place.effects() == [EFFECT[UNPROBED]]
        _, result = await direct.get(world.org_id, UUID(line.split()[1].decode()))
        assert result.status is ToolStatus.COMPLETED
        assert await audited(world, "chat.tool.execute") == ["completed"]
