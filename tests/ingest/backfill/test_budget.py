"""A backfill under a budget: it stops at the hard limit and goes on when there is more."""

from __future__ import annotations

import pytest

from agentcy_ray.budgets.ledger import Ledger
from agentcy_ray.budgets.limits import BudgetChange
from agentcy_ray.core.errors import BudgetExceededError
from tests.ingest.backfill.conftest import MakeFilling


async def test_a_backfill_stops_at_its_limit_and_goes_on_when_more_is_allowed(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    house = filling.house
    ledger = Ledger(house.db, house.settings)

    async def allow(tokens: int | None) -> None:
        limit = {"scope": "agent", "subject": "embed_backfill", "unit": "tokens", "hard": tokens}
        change = BudgetChange.model_validate({"limits": [limit]})
        await ledger.limits.change(house.org_id, change, None)

    await allow(500)
    backfill = await filling.start()
    with pytest.raises(BudgetExceededError):
        await filling.attempt(backfill, ledger=ledger)
    stopped = await filling.get(backfill)
    assert (stopped.status, stopped.error and stopped.error["code"]) == (
        "failed",
        "budget_exceeded",
    )
    await allow(1_000_000)
    await filling.store.resume(house.org_id, backfill.id)
    ended = await filling.attempt(backfill, ledger=ledger)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    async with house.db.tenant(house.org_id) as connection:
        row = await connection.fetchrow("SELECT * FROM budget_balances")
        used = await connection.fetchrow("SELECT * FROM usage_ledger")
    assert (row["spent"], row["reserved"]) == (used["in_tokens"], 0)
    # The other lane's block was embedded and not written when the limit was met.
    assert used["in_tokens"] >= ended.tokens > 500
    assert (used["agent"], used["model"]) == ("embed_backfill", filling.space.embedder)
