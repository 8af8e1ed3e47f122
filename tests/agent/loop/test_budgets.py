"""Runs under budgets: a hard end, a question at the soft limit, and nothing held by the dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agentcy_ray.agent.approval_records import Approval
from agentcy_ray.agent.control import RunControl
from agentcy_ray.agent.profiles import NewAgent
from agentcy_ray.agent.run_records import Run
from agentcy_ray.agent.turns import Turn, TurnStore
from agentcy_ray.api.routes.v1.budgeted import budgeted_pieces, embedded
from agentcy_ray.api.routes.v1.pieces import Finish, Reasoning
from agentcy_ray.budgets.amounts import Estimate, Scope, Spent
from agentcy_ray.budgets.limits import BudgetChange
from agentcy_ray.core.errors import BudgetExceededError
from agentcy_ray.core.events import EventType, Usage
from agentcy_ray.core.ids import decode
from agentcy_ray.core.settings import Settings
from agentcy_ray.llm.model import Message, ModelRequest
from agentcy_ray.llm.registry import Models
from agentcy_ray.llm.scripted import scripted_reference
from agentcy_ray.retrieval.embedder import (
    Embedded,
    EmbedderInfo,
    EmbedUsage,
    Vectors,
    no_vectors,
)
from tests.agent.loop.conftest import World
from tests.agent.loop.executor_process import Assembly, Place, assembled, spawned
from tests.agent.loop.kit import loop_of, of, words
from tests.agent.loop.test_executor import ended, hasten, seen, taken_over

FIRST_WORD = EventType.CONTENT_DELTA


@pytest.fixture
async def place(world: World, tmp_path: Path) -> Place:
    return Place(world.url, world.redis_url, world.redis_prefix, str(tmp_path))


@pytest.fixture
async def process(place: Place) -> AsyncIterator[Assembly]:
    async with assembled(place) as assembly:
        yield assembly


async def limit(world: World, process: Assembly, **wanted: Any) -> None:
    change = {"limits": [{"scope": "org", "unit": "tokens", "soft_share": None, **wanted}]}
    limits = process.spending.ledger.limits
    await limits.change(world.org_id, BudgetChange.model_validate(change), None)


async def balance(world: World, scope: str = "org") -> tuple[int, int]:
    async with world.db.tenant(world.org_id) as connection:
        row = await connection.fetchrow(
            "SELECT sum(spent)::bigint, sum(reserved)::bigint FROM budget_balances"
            " WHERE scope = $1",
            scope,
        )
    return row[0], row[1]


async def finished(world: World, run: Run) -> Run:
    return await world.runs.get(world.principal, run.id)


@pytest.mark.requirement("AGT-10")
@pytest.mark.parametrize("scope", ["org", "agent"])
async def test_concurrent_runs_end_when_a_days_budget_is_used_up_and_never_pass_it(
    world: World, process: Assembly, scope: str
) -> None:
    hard = 40_000
    await limit(world, process, scope=scope, hard=hard)
    loop = loop_of(world, spending=process.spending)
    model = scripted_reference(tools="git.log", repeat=True, usage=500)
    for _ in range(6):
        await world.start(model=model)
    runs = await world.runs.claim("a", limit=6, lease_secs=60)
    await asyncio.gather(*(loop.execute(run, RunControl()) for run in runs))
    ends = [await finished(world, run) for run in runs]
    assert "budget_exceeded" in {end.finish_reason for end in ends}
    assert {end.finish_reason for end in ends} <= {"budget_exceeded", "max_iterations"}
    spent, reserved = await balance(world, scope)
    assert reserved == 0
    assert 0 < spent <= hard
    assert spent == sum(end.usage.in_tokens + end.usage.out_tokens for end in ends)
    stopped = next(end for end in ends if end.finish_reason == "budget_exceeded")
    assert stopped.status == "failed"
    events = await world.log.read(world.org_id, stopped.id, limit=10_000)
    assert of(events, EventType.WARNING)[-1]["code"] == "budget_exceeded"
    assert events[-1].data["finish_reason"] == "budget_exceeded"
    await process.gates.audit.close()
    async with world.db.tenant(world.org_id) as connection:
        told = await connection.fetchval(
            "SELECT count(*) FROM audit_log WHERE action = 'budget.exceeded' AND decision = 'deny'"
        )
    assert told >= 1


async def _asked(world: World, process: Assembly, run: Run) -> Approval:
    event = await seen(world, run, lambda e: e.type is EventType.APPROVAL_REQUIRED)
    id_ = decode("apr", event.data["approval_id"])
    return await process.gates.approvals.get(world.principal, id_)


async def test_a_soft_limit_asks_once_and_an_answer_holds_for_the_day(
    world: World, process: Assembly
) -> None:
    await limit(world, process, hard=1_000_000, soft_share=0.001)
    stop = asyncio.Event()
    working = asyncio.create_task(process.executor.run(stop))
    first, second = await world.start(text="One?"), await world.start(text="Two?")
    asked = [await _asked(world, process, run) for run in (first, second)]
    assert asked[0].id == asked[1].id
    assert (asked[0].connector, asked[0].tool, asked[0].by_policy) == ("budgets", "raise", True)
    assert (await finished(world, first)).status == "waiting_approval"
    assert (await balance(world))[1] == 0
    await process.gates.approvals.decide(world.principal, asked[0].id, approved=True, via="cli")
    for run in (first, second, await world.start(text="Three?")):
        events = await ended(world, run)
        assert events[-1].data["finish_reason"] == "end_turn"
        assert words(events)
    assert (await process.gates.approvals.get(world.principal, asked[0].id)).status == "consumed"
    stop.set()
    await asyncio.wait_for(working, 60)


async def test_a_refusal_at_the_soft_limit_ends_the_run_and_the_next_one_asks_anew(
    world: World, process: Assembly
) -> None:
    await limit(world, process, hard=1_000_000, soft_share=0.001)
    stop = asyncio.Event()
    working = asyncio.create_task(process.executor.run(stop))
    asked: list[Approval] = []
    for _ in range(2):
        run = await world.start()
        asked.append(await _asked(world, process, run))
        await process.gates.approvals.decide(
            world.principal, asked[-1].id, approved=False, via="api"
        )
        events = await ended(world, run)
        assert events[-1].data["finish_reason"] == "budget_exceeded"
        assert of(events, EventType.APPROVAL_RESOLVED)[0]["status"] == "denied"
    assert asked[0].id != asked[1].id
    assert await balance(world) == (0, 0)
    stop.set()
    await asyncio.wait_for(working, 60)


@pytest.mark.chaos
async def test_a_kill_in_the_middle_of_a_turn_leaves_nothing_held(
    world: World, place: Place, process: Assembly
) -> None:
    await limit(world, process, hard=1_000_000)
    run = await world.start(model=scripted_reference(tokens=200, itl=50, usage=100))
    killed = await spawned(place)
    await seen(world, run, lambda event: event.type is FIRST_WORD)
    spent, reserved = await balance(world)
    assert (spent, reserved > 1000) == (0, True)
    killed.kill()
    await killed.wait()
    await hasten(world)
    events = await taken_over(world, process, run)
    end = await finished(world, run)
    assert (end.epoch, events[-1].data["finish_reason"]) == (2, "end_turn")
    # The half turn was given back, the whole one counted.
    assert await balance(world) == (end.usage.in_tokens + end.usage.out_tokens, 0)
    async with world.db.tenant(world.org_id) as connection:
        kinds = await connection.fetch("SELECT kind FROM budget_entries ORDER BY at, id")
    assert [row["kind"] for row in kinds] == ["reserved", "released", "reserved", "settled"]


async def test_a_successor_settles_the_turn_that_is_stored_exactly_once(
    world: World, process: Assembly
) -> None:
    await limit(world, process, hard=1_000_000)
    ledger, turns = process.spending.ledger, TurnStore(world.db, world.log)
    await world.start()
    run = await world.claim("a")
    scope = Scope(world.org_id, run.principal.user_id, run.agent, run.id, run.epoch, 1)
    held = await ledger.reserve(scope, Estimate(tokens=5000))
    usage = Usage(in_tokens=300, out_tokens=20)
    said = Turn(number=1, message=Message.say("assistant", "Yes."), said="Yes.", usage=usage)
    await turns.save(run.key, said, usage)
    # Alive, it keeps what it holds, however old that is.
    async with world.db.tenant(world.org_id) as connection:
        await connection.execute(
            "UPDATE budget_reservations SET expires_at = now() - '1 h'::interval"
        )
    assert await ledger.recovery.sweep(world.org_id) == 0
    await world.runs.release(run.key)
    successor = await world.claim("b")
    await loop_of(world, spending=process.spending).execute(successor, RunControl())
    assert (await finished(world, run)).finish_reason == "end_turn"
    assert await balance(world) == (320, 0)
    # The former owner comes back and settles too; the sweep looks once more.
    await ledger.settle(held, Spent.of(usage))
    assert await ledger.recovery.sweep(world.org_id) == 0
    assert await balance(world) == (320, 0)


async def test_a_model_that_fails_gives_back_and_its_fallback_is_settled(
    world: World, process: Assembly
) -> None:
    await limit(world, process, hard=1_000_000)
    agent = await world.agents.create(
        world.org_id,
        NewAgent(name="careful", fallback_model="scripted:text=Instead.,usage=70"),
    )
    run = await world.start(agent=agent, model="scripted:fail=0")
    await loop_of(world, spending=process.spending).execute(await world.claim(), RunControl())
    end = await finished(world, run)
    assert end.finish_reason == "end_turn"
    assert await balance(world) == (end.usage.in_tokens + end.usage.out_tokens, 0)
    async with world.db.tenant(world.org_id) as connection:
        kinds = await connection.fetch("SELECT kind FROM budget_entries ORDER BY at, id")
    assert [row["kind"] for row in kinds] == ["reserved", "released", "reserved", "settled"]


async def test_a_call_cannot_wait_and_is_refused_until_a_person_has_approved(
    world: World, process: Assembly
) -> None:
    spending, who = process.spending, world.principal
    priced = "openai:gpt-4o"
    cost = spending.tokens(priced, 1000, 1000)
    assert cost.cost_usd
    await limit(world, process, unit="usd", hard=cost.cost_usd * 3, soft_share=0.5)
    first = await spending.hold_call(who, priced, cost)
    with pytest.raises(BudgetExceededError) as refused:
        await spending.hold_call(who, priced, cost)
    asked = decode("apr", refused.value.details["approval_id"])
    with pytest.raises(BudgetExceededError) as again:
        await spending.hold_call(who, priced, cost)
    assert again.value.details["approval_id"] == refused.value.details["approval_id"]
    await process.gates.approvals.decide(who, asked, approved=True, via="api")
    await spending.hold_call(who, priced, cost)
    await spending.hold_call(who, priced, cost)
    with pytest.raises(BudgetExceededError, match="0 are left"):
        await spending.hold_call(who, priced, cost)
    await spending.ledger.settle(first, Spent(10, 5, 0.0001))
    assert (await balance(world))[0] == 100_000


async def test_a_call_that_passes_two_soft_limits_needs_both_to_be_lifted(
    world: World, process: Assembly
) -> None:
    spending, who = process.spending, world.principal
    for scope in ("org", "user"):
        await limit(world, process, scope=scope, hard=1000, soft_share=0.5)
    asked: set[str] = set()
    for _ in range(2):
        with pytest.raises(BudgetExceededError) as refused:
            await spending.hold_call(who, "scripted:tokens=1", Estimate(tokens=600))
        asked.add(refused.value.details["approval_id"])
        approval = decode("apr", refused.value.details["approval_id"])
        await process.gates.approvals.decide(who, approval, approved=True, via="api")
    assert len(asked) == 2
    assert await balance(world) == (0, 0)
    held = await spending.hold_call(who, "scripted:tokens=1", Estimate(tokens=600))
    assert held.needs_approval is None
    assert (await balance(world, "user"))[1] == 600


async def test_what_a_plain_call_used_counts_whatever_its_caller_saw_of_it(
    world: World, process: Assembly
) -> None:
    await limit(world, process, hard=1_000_000)
    models, who = Models(Settings.load({})), world.principal
    ask = ModelRequest(system="", messages=(Message.say("user", "Why?"),))
    thinking = models.resolve(scripted_reference(think="It is so.", text="So."))
    async with aclosing(budgeted_pieces(process.spending, who, thinking, ask)) as pieces:
        assert isinstance(await anext(pieces), Reasoning)  # and its reader leaves
    thought, _ = await balance(world)
    assert thought > 0
    stopped = ask.model_copy(update={"stop": ("So",)})
    mute = models.resolve(scripted_reference(text="So."))
    said = [piece async for piece in budgeted_pieces(process.spending, who, mute, stopped)]
    assert [type(piece) for piece in said] == [Finish]
    assert (await balance(world))[0] > thought


async def test_seconds_of_a_gpu_that_a_call_embedded_in_draw_on_their_limit(
    world: World, process: Assembly
) -> None:
    class OnGpu:
        info = EmbedderInfo("local:m", "local:m@1", 2, 8)

        async def embed(self, texts: Sequence[str]) -> Vectors:
            return no_vectors(2)

        async def embed_metered(self, texts: Sequence[str]) -> Embedded:
            return Embedded(no_vectors(2), EmbedUsage(tokens=10, gpu_secs=0.6))

    await limit(world, process, unit="gpu_seconds", hard=1)
    how = (process.spending, world.principal, "local:m", OnGpu(), ["four words are here, or so"])
    await embedded(*how)
    assert await balance(world) == (600, 0)
    with pytest.raises(BudgetExceededError, match="GPU seconds"):
        await embedded(*how)
