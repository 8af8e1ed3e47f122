"""A database with an organisation in it, and the ledger of one process or of several."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.budgets.amounts import Scope
from agentcy_ray.budgets.ledger import Ledger
from agentcy_ray.budgets.limits import BudgetChange
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from tests.conftest import MakeDatabase


@dataclass
class Purse:
    """One organisation, and as many processes as a test wants."""

    db: Database
    settings: Settings
    org_id: UUID
    user_id: UUID
    process: Callable[[], Any]
    """Opens the ledger of another process: a pool of its own."""

    def scope(self, agent: str | None = None, **of_run: Any) -> Scope:
        return Scope(self.org_id, self.user_id, agent, **of_run)

    async def limit(self, ledger: Ledger, *limits: dict[str, Any]) -> None:
        change = BudgetChange.model_validate({"limits": limits})
        await ledger.limits.change(self.org_id, change, self.user_id)

    async def rows(self, statement: str) -> list[Any]:
        async with self.db.tenant(self.org_id) as connection:
            return await connection.fetch(statement)

    async def balance(self, unit: str = "usd") -> tuple[int, int]:
        """Spent and reserved of the organisation."""
        rows = await self.rows(
            f"SELECT spent, reserved FROM budget_balances WHERE scope = 'org' AND unit = '{unit}'"
        )
        return (rows[0]["spent"], rows[0]["reserved"]) if rows else (0, 0)


@pytest.fixture(scope="session")
async def budget_database(make_database: MakeDatabase) -> str:
    """One database for all tests here: each has an organisation of its own."""
    url = await make_database()
    await migrate(url)
    return url


@pytest.fixture
async def purse(budget_database: str) -> AsyncIterator[Purse]:
    settings = Settings.load({}, gpu_second_usd=0.01)
    async with AsyncExitStack() as opened:

        async def process() -> Ledger:
            db = await open_database(budget_database, pool_max=4)
            opened.push_async_callback(db.close)
            ledger = Ledger(db, settings)
            opened.push_async_callback(ledger.close)
            return ledger

        db = await open_database(budget_database, pool_max=2)
        opened.push_async_callback(db.close)
        org_id, user_id = new_id(), new_id()
        async with db.system() as connection:
            await connection.execute(
                "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
                org_id,
                f"org-{org_id.hex[-12:]}",
            )
            await connection.execute(
                "INSERT INTO users (id, org_id, email, roles) VALUES ($1, $2, 'a@b.c', '{owner}')",
                user_id,
                org_id,
            )
        yield Purse(db, settings, org_id, user_id, process)
