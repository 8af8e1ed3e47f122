"""Connections change hands between tenants; nothing of the one is left for the other."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

import asyncpg
import pytest

from agentcy_ray.stores.postgres import Database, open_database
from tests.tenancy.conftest import Tenants

TASKS, POOL, SEED = 200, 4, 7
_STATE = """
SELECT current_user = session_user AS login, nullif(current_setting('app.org_id', true), '') AS org,
  current_setting('search_path') AS path,
  (SELECT count(*) FROM pg_cursors WHERE name <> '') AS cursors,
  (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') AS locks
"""
_BREAKS = (
    "SELECT 1 / 0",
    "SELECT * FROM nothing",
    "INSERT INTO realms (org_id, name) VALUES ($1, '')",
)


class Crowd:
    """Tasks of two organisations over few connections, some of which end at a random point."""

    def __init__(self, db: Database, orgs: list[UUID], chance: random.Random) -> None:
        self.db, self.orgs, self.chance = db, orgs, chance
        self.looks = 0

    async def work(self, number: int) -> None:
        org = self.orgs[number % 2]
        other = self.orgs[1 - number % 2]
        for turn in range(3):
            async with self.db.tenant(org) as connection:
                rows = await connection.fetch("SELECT org_id FROM realms")
                assert {row["org_id"] for row in rows} == {org}
                bound = await connection.fetchval("SELECT current_setting('app.org_id')")
                assert bound == str(org)
                await connection.execute(
                    "INSERT INTO realms (org_id, name, description) VALUES ($1, $2, $3)",
                    org, f"r{number}-{turn}", org.hex,
                )  # fmt: skip
                await connection.execute("SAVEPOINT forged")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(
                        "INSERT INTO realms (org_id, name) VALUES ($1, 'forged')", other
                    )
                await connection.execute("ROLLBACK TO forged")
                self.looks += 1
            with pytest.raises(asyncpg.PostgresError):
                await self.fail(org)
            async with self.db.system() as connection:
                assert await connection.fetchval("SELECT current_user") == "agentcy_system"

    async def fail(self, org: UUID) -> None:
        broken = self.chance.choice(_BREAKS)
        async with self.db.tenant(org) as connection:
            await connection.execute(broken, *([org] if "$1" in broken else []))

    async def cut(self, task: asyncio.Task[None], turns: int) -> None:
        """Cancel after so many turns of the loop, wherever the task is then."""
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()


@pytest.mark.attack
@pytest.mark.requirement("TEN-03")
async def test_no_org_leaks_over_pooled_connections_under_random_cancels(
    tenants: Tenants, attack_scale: str, caplog: pytest.LogCaptureFixture
) -> None:
    seed = SEED if attack_scale == "short" else random.SystemRandom().randrange(2**32)
    db = await open_database(tenants.url, pool_max=POOL)
    crowd = Crowd(db, [tenants.ours, tenants.theirs], random.Random(seed))
    tasks = [asyncio.create_task(crowd.work(number)) for number in range(TASKS)]
    doomed = crowd.chance.sample(tasks, 120)
    cuts = [asyncio.create_task(crowd.cut(task, crowd.chance.randrange(4000))) for task in doomed]
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*cuts)
    wrong = [end for end in ended if end and not isinstance(end, asyncio.CancelledError)]
    assert not wrong, (seed, wrong[:3])
    assert sum(isinstance(end, asyncio.CancelledError) for end in ended) > 20, seed
    assert crowd.looks >= 240, seed
    assert await _left(db) == [(False, True, None, '"$user", public', 0, 0)] * POOL, seed
    assert "active transaction" not in caplog.text, seed  # none went back to the pool open
    async with db.system() as connection:
        crossed = await connection.fetchval(
            "SELECT count(*) FROM realms WHERE name ~ '^r[0-9]' AND description <>"
            " replace(org_id::text, '-', '')"
        )
        assert crossed == 0, seed
        await connection.execute("DELETE FROM realms WHERE name ~ '^r[0-9]+-'")
    await db.close()


@pytest.mark.attack
@pytest.mark.requirement("TEN-03")
async def test_a_task_that_is_cancelled_while_it_ends_leaves_its_connection_at_rest(
    tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    db = await open_database(tenants.url, pool_max=1)
    crowd = Crowd(db, [tenants.ours, tenants.theirs], random.Random(SEED))
    ends: set[type[BaseException]] = set()
    for turns in range(60):  # at every point of begin, failure, rollback and release
        task = asyncio.create_task(crowd.fail(tenants.ours))
        await crowd.cut(task, turns)
        (end,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(end, asyncio.CancelledError | asyncpg.PostgresError), turns
        ends.add(type(end))
        assert await _left(db, 1) == [(False, True, None, '"$user", public', 0, 0)], turns
    await db.close()
    assert asyncio.CancelledError in ends
    assert "active transaction" not in caplog.text


async def _left(db: Database, connections: int = POOL) -> list[tuple[object, ...]]:
    """What each connection of the pool still carries once nobody uses it."""
    taken = [await db._pool.acquire() for _ in range(connections)]
    try:
        return [(one.is_in_transaction(), *(await one.fetchrow(_STATE)).values()) for one in taken]
    finally:
        for one in taken:
            await db._pool.release(one)
