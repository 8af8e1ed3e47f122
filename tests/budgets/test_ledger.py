"""The ledger: exact under concurrency, to the last part of a cent, whoever dies."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from agentcy_ray.budgets.amounts import Estimate, Spent
from agentcy_ray.budgets.limits import BudgetChange
from agentcy_ray.budgets.records import Reservation
from agentcy_ray.core.errors import BudgetExceededError
from agentcy_ray.core.ids import encode, new_id
from tests.budgets.conftest import Purse

NANO = 1_000_000_000
HARD = 0.5


@pytest.mark.requirement("AGT-10")
async def test_a_hard_limit_is_never_passed_and_no_part_of_a_cent_is_lost(purse: Purse) -> None:
    """200 tasks over three processes: random estimates, settlements, releases and deaths."""
    ledgers = [await purse.process() for _ in range(3)]
    chance = random.Random(11)
    await purse.limit(
        ledgers[0],
        {"scope": "org", "hard": HARD, "soft_share": None},
        {"scope": "user", "hard": HARD * 0.9, "soft_share": 0.5},
        {"scope": "agent", "hard": HARD * 0.4, "soft_share": None},
    )
    for ledger in ledgers[1:]:
        assert await ledger.limited(purse.scope())
    kept: list[int] = []
    dead: list[Reservation] = []
    refused = 0

    async def task(number: int) -> None:
        nonlocal refused
        ledger = chance.choice(ledgers)
        scope = purse.scope(chance.choice(["a", "b", "c"]))
        most = chance.randrange(1, 20_000_000)
        try:
            held = await ledger.reserve(scope, Estimate(cost_usd=most / NANO, tokens=5))
        except BudgetExceededError:
            refused += 1
            return
        await asyncio.sleep(0)
        end = chance.random()
        if end < 0.6:
            used = chance.randrange(0, most + 1)
            kept.append(used)
            spent = Spent(3, 2, used / NANO)
            await asyncio.gather(
                *(ledger.settle(held, spent) for _ in range(chance.choice([1, 2])))
            )
        elif end < 0.8:
            await ledger.release(held)
            await ledger.release(held)
        else:
            dead.append(held)

    async def watch(done: asyncio.Event) -> None:
        while not done.is_set():
            spent, reserved = await purse.balance()
            assert spent + reserved <= HARD * NANO

    done = asyncio.Event()
    watching = asyncio.create_task(watch(done))
    await asyncio.gather(*(task(number) for number in range(200)))
    done.set()
    await watching

    assert refused
    assert dead
    assert kept
    holds = sum(hold.amount for held in dead for hold in held.holds if hold.key.level == "org")
    assert await purse.balance() == (sum(kept), holds)
    by_agent = await purse.rows("SELECT sum(spent) AS s FROM budget_balances WHERE scope = 'agent'")
    assert by_agent[0]["s"] == sum(kept)
    entries = await purse.rows(
        "SELECT kind, count(*) AS n, sum(usd) AS usd FROM budget_entries GROUP BY kind"
    )
    told = {row["kind"]: (row["n"], row["usd"]) for row in entries}
    assert told["settled"] == (len(kept), sum(kept))
    assert told["reserved"][0] == len(kept) + told["released"][0] + len(dead)

    # The dead ones' holds come back once they have expired, and the first to need them sees to it.
    await purse.rows(
        "UPDATE budget_reservations SET expires_at = now() - interval '1 s' RETURNING 1"
    )
    rest = HARD * 0.9 * NANO - sum(kept)
    held = await ledgers[0].reserve(purse.scope(), Estimate(cost_usd=rest / NANO))
    await ledgers[0].release(held)
    assert await ledgers[0].recovery.sweep() == 0
    assert await purse.balance() == (sum(kept), 0)


async def test_where_nothing_is_limited_nothing_is_written(purse: Purse) -> None:
    ledger = await purse.process()
    held = await ledger.reserve(purse.scope("a", run_id=new_id()), Estimate(tokens=10, cost_usd=1))
    await ledger.settle(held, Spent(5, 5, 1.0))
    assert held.id is None
    # A limit in dollars is nothing to a model without a price.
    await purse.limit(ledger, {"scope": "org", "hard": 0})
    held = await ledger.reserve(purse.scope(), lambda: Estimate(tokens=10))
    assert held.id is None
    assert await purse.rows("SELECT 1 FROM budget_balances") == []


async def test_what_is_used_outside_of_runs_is_in_the_reports_with_or_without_a_limit(
    purse: Purse,
) -> None:
    ledger = await purse.process()
    me = encode("usr", purse.user_id)
    for _ in range(2):
        held = await ledger.reserve(
            purse.scope("fill"), Estimate(tokens=10, gpu_seconds=3), model="m"
        )
        await ledger.settle(held, Spent(7, 0, None, gpu_seconds=2.5))
        await purse.limit(
            ledger,
            {"scope": "org", "unit": "gpu_seconds", "hard": 100},
            {"scope": "user", "subject": me, "unit": "tokens", "hard": 100},
        )
        told = {one.unit: one.spent for one in (await ledger.limits.get(purse.org_id)).limits}
        used = await purse.rows("SELECT in_tokens AS tokens, gpu_seconds FROM usage_ledger")
        assert told == dict(used[0]), "shown as it is counted, before anything draws on it too"
    (row,) = await purse.rows("SELECT * FROM usage_ledger")
    assert (row["agent"], row["model"], row["in_tokens"]) == ("fill", "m", 14)
    assert (row["gpu_seconds"], row["cost_usd"]) == (5.0, 0.05)
    # The first one was used before the limit was set, on the same day: it counts.
    assert await purse.balance("gpu_seconds") == (5000, 0)


async def test_a_settlement_after_a_release_still_counts_once(purse: Purse) -> None:
    ledger = await purse.process()
    await purse.limit(ledger, {"scope": "org", "hard": 1})
    held = await ledger.reserve(purse.scope(), Estimate(cost_usd=0.5))
    await ledger.release(held)
    assert await purse.balance() == (0, 0)
    for _ in range(2):
        await ledger.settle(held, Spent(cost_usd=0.25))
    assert await purse.balance() == (NANO // 4, 0)
    kinds = await purse.rows("SELECT kind FROM budget_entries ORDER BY id")
    assert [row["kind"] for row in kinds] == ["reserved", "released", "late"]


async def test_the_nearest_limit_decides_and_a_subjects_own_beats_that_of_each(
    purse: Purse,
) -> None:
    ledger = await purse.process()
    await purse.limit(
        ledger,
        {"scope": "org", "hard": 10},
        {"scope": "agent", "hard": 1},
        {"scope": "agent", "subject": "big", "hard": 5},
        {"scope": "run", "unit": "tokens", "hard": 100},
    )
    with pytest.raises(BudgetExceededError) as refused:
        await ledger.reserve(purse.scope("small"), Estimate(cost_usd=2))
    assert refused.value.status == 429
    assert refused.value.details["limit"]["subject"] == "small"
    assert (await ledger.reserve(purse.scope("big"), Estimate(cost_usd=2))).id is not None
    run = new_id()
    await ledger.reserve(purse.scope("big", run_id=run), Estimate(cost_usd=0.1, tokens=60))
    with pytest.raises(BudgetExceededError, match="this run"):
        await ledger.reserve(purse.scope("big", run_id=run), Estimate(cost_usd=0.1, tokens=60))
    assert (await ledger.reserve(purse.scope("big", run_id=new_id()), Estimate(tokens=60))).id
    # What was refused holds nothing anywhere.
    assert await purse.balance() == (0, int(2.1 * NANO))
    await purse.limit(ledger, {"scope": "run", "unit": "tokens", "hard": None})
    assert (await ledger.reserve(purse.scope(run_id=run), Estimate(tokens=600))).id is None


async def test_a_soft_limit_asks_and_the_hold_stands(purse: Purse) -> None:
    ledger = await purse.process()
    await purse.limit(ledger, {"scope": "user", "hard": 1, "soft_share": 0.5})
    first = await ledger.reserve(purse.scope(), Estimate(cost_usd=0.4))
    second = await ledger.reserve(purse.scope(), Estimate(cost_usd=0.4))
    assert first.needs_approval is None
    soft = second.needs_approval
    assert soft is not None
    assert soft.document()["wanted"] == 0.8
    assert soft.key.subject == encode("usr", purse.user_id)
    with pytest.raises(BudgetExceededError):
        await ledger.reserve(purse.scope(), Estimate(cost_usd=0.4))


async def test_a_caller_that_goes_away_while_reserving_holds_nothing(purse: Purse) -> None:
    ledger = await purse.process()
    await purse.limit(ledger, {"scope": "org", "hard": 1, "soft_share": None})
    assert await ledger.limited(purse.scope())
    waiting = asyncio.create_task(ledger.reserve(purse.scope(), Estimate(cost_usd=0.9)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    # Whatever came of it is given back before this one, which is queued behind it.
    async with asyncio.timeout(60):
        while (await purse.balance())[1] or not await purse.rows("SELECT 1 FROM budget_entries"):
            pass  # each look is a round trip to Postgres
    assert (await ledger.reserve(purse.scope(), Estimate(cost_usd=1))).id is not None


async def test_a_day_begins_where_the_organisation_is(purse: Purse) -> None:
    ledger = await purse.process()
    now = datetime.now(UTC)
    # Kiritimati is fourteen hours ahead; one of the two is on another day than UTC, always.
    ahead = (now + timedelta(hours=14)).date() != now.date()
    zone = "Pacific/Kiritimati" if ahead else "Pacific/Pago_Pago"
    there = now + timedelta(hours=14 if ahead else -11)
    await purse.limit(ledger, {"scope": "org", "hard": 1})
    await ledger.reserve(purse.scope(), Estimate(cost_usd=0.9))
    change = {"timezone": zone}
    await ledger.limits.change(purse.org_id, BudgetChange.model_validate(change), None)
    held = await ledger.reserve(purse.scope(), Estimate(cost_usd=0.9))
    assert {hold.key.period for hold in held.holds} <= {str(there.date()), str(now.date())}
