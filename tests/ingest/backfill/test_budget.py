"""A backfill under a budget: it stops at the hard limit and goes on when there is more."""

from __future__ import annotations

import pytest

from agentcy_ray.audit.filters import AuditFilter
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.budgets.ledger import Ledger
from agentcy_ray.budgets.limits import BudgetChange
from agentcy_ray.core.errors import BudgetExceededError
from agentcy_ray.ingest.backfill.budget import BlockBudget
from agentcy_ray.ingest.backfill.rows import BackfillRows
from tests.ingest.backfill.conftest import MakeFilling


async def test_a_backfill_stops_at_its_limit_and_goes_on_when_more_is_allowed(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    house = filling.house
    ledger = Ledger(house.db, house.settings)

    async def allow(tokens: int | None) -> None:
        limit = {"scope": "agent", "subject": "embed_backfill", "unit": "tokens"}
        change = BudgetChange.model_validate({
            "limits": [{**limit, "hard": tokens, "soft_share": None}]
        })
        await ledger.limits.change(house.org_id, change, None)

    await allow(500)
    backfill = await filling.start()
    audit = AuditLog(house.db)
    with pytest.raises(BudgetExceededError):
        await filling.attempt(backfill, ledger=ledger, audit=audit)
    entries = await audit.list(house.org_id, AuditFilter(action="budget.exceeded"))
    assert [entry.decision for entry in entries] == ["deny"]
    assert entries[0].resource["hard"] == 500
    await audit.close()
    stopped = await filling.get(backfill)
    assert (stopped.status, stopped.error and stopped.error["code"]) == (
        "failed",
        "budget_exceeded",
    )
    await allow(1_000_000)
    queued = await filling.store.resume(house.org_id, backfill.id)
    ended = await filling.attempt(queued, ledger=ledger)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    async with house.db.tenant(house.org_id) as connection:
        row = await connection.fetchrow("SELECT * FROM budget_balances")
        used = await connection.fetchrow("SELECT * FROM usage_ledger")
    assert (row["spent"], row["reserved"]) == (used["in_tokens"], 0)
    # The other lane's block was embedded and not written when the limit was met.
    assert used["in_tokens"] >= ended.tokens > 500
    assert (used["agent"], used["model"]) == ("embed_backfill", filling.space.embedder)


async def test_what_a_killed_worker_held_does_not_stand_in_the_way_of_the_next(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    house = filling.house
    ledger = Ledger(house.db, house.settings)
    limit = {"scope": "org", "unit": "tokens", "hard": 5_000, "soft_share": None}
    change = BudgetChange.model_validate({"limits": [limit]})
    await ledger.limits.change(house.org_id, change, None)
    backfill = await filling.start()
    taken = await BackfillRows(house.db).take(
        house.org_id, backfill.id, (await filling.job(backfill)).id
    )
    assert taken is not None
    killed = BlockBudget.of(ledger, taken, filling.space.embedder)
    assert (await killed.hold(3_900)).holds  # and nobody closes it
    ended = await filling.attempt(backfill, ledger=ledger)
    assert ended.status == "done"
    async with house.db.tenant(house.org_id) as connection:
        row = await connection.fetchrow("SELECT spent, reserved FROM budget_balances")
    assert tuple(row) == (ended.tokens, 0)


async def test_a_backfill_waits_at_a_soft_limit_until_somebody_lets_it_go_on(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    house = filling.house
    ledger = Ledger(house.db, house.settings)
    limit = {"scope": "agent", "subject": "embed_backfill", "unit": "tokens"}
    change = BudgetChange.model_validate({
        "limits": [{**limit, "hard": 1_000_000, "soft_share": 0.0005}]
    })
    await ledger.limits.change(house.org_id, change, None)
    backfill = await filling.start()
    waiting = await filling.attempt(backfill, ledger=ledger)
    assert waiting.status == "paused"
    assert waiting.error is not None
    assert waiting.error["code"] == "budget_soft_limit"
    assert "agentcy embed resume" in waiting.error["message"]
    async with house.db.tenant(house.org_id) as connection:
        assert await connection.fetchval("SELECT reserved FROM budget_balances") == 0
    queued = await filling.store.resume(house.org_id, backfill.id)
    ended = await filling.attempt(queued, ledger=ledger)
    assert (ended.status, ended.error) == ("done", None)
    await filling.assert_complete()
