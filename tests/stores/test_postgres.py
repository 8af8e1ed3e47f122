"""What is Postgres being away, and what is our own misuse of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from tests.conftest import MakeDatabase

ME = "SELECT pg_backend_pid()"


@pytest.fixture(scope="module")
async def url(make_database: MakeDatabase) -> str:
    made = await make_database()
    await migrate(made)
    return made


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    opened = await open_database(url, pool_max=4)
    yield opened
    await opened.close()


async def end(url: str, pid: int) -> None:
    """End a connection as a restart of the server would, and see it ended."""
    admin = await asyncpg.connect(url)
    # With a time-out it waits until the backend is gone.
    assert await admin.fetchval("SELECT pg_terminate_backend($1, 10000)", pid)
    await admin.close()


async def test_too_few_arguments_are_a_fault_of_ours(db: Database) -> None:
    with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
        async with db.tenant(new_id()) as connection:
            await connection.fetchval("SELECT $1::int")
    async with db.tenant(new_id()) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_two_statements_at_once_are_a_fault_of_ours(db: Database) -> None:
    with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
        async with db.tenant(new_id()) as connection:
            await asyncio.gather(connection.fetchval("SELECT 1"), connection.fetchval("SELECT 2"))
    async with db.tenant(new_id()) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_connection_that_was_ended_is_postgres_being_away(db: Database, url: str) -> None:
    async def work() -> None:
        async with db.system() as connection:
            await end(url, await connection.fetchval(ME))
            await connection.fetchval("SELECT 1")

    with pytest.raises(StoreUnavailableError):
        await work()


async def test_a_connection_lost_before_the_commit_committed_nothing_and_says_so(
    db: Database, url: str
) -> None:
    org_id = new_id()

    async def work() -> None:
        async with db.system() as connection:
            await connection.execute(
                "INSERT INTO organizations (id, name, display_name) VALUES ($1, 'a', 'A')", org_id
            )
            await end(url, await connection.fetchval(ME))

    with pytest.raises(StoreUnavailableError):
        await work()
    async with db.system() as connection:
        count = "SELECT count(*) FROM organizations WHERE id = $1"
        assert await connection.fetchval(count, org_id) == 0


async def test_a_closed_pool_is_postgres_being_away(url: str) -> None:
    db = await open_database(url, pool_max=2)
    await db.close()
    with pytest.raises(StoreUnavailableError):
        async with db.system():
            pass
    with pytest.raises(StoreUnavailableError):
        await db.ping()


async def test_trouble_of_the_caller_inside_a_transaction_stays_his(db: Database) -> None:
    with pytest.raises(TimeoutError):
        async with db.system(), asyncio.timeout(0):
            await asyncio.Event().wait()
    with pytest.raises(FileNotFoundError):
        async with db.system():
            raise FileNotFoundError("a file of the caller")


async def test_what_the_owner_of_tables_sets_or_locks_ends_with_its_turn(url: str) -> None:
    one = await open_database(url, pool_max=1)
    try:
        async with one.owner() as connection:
            await connection.execute("SET maintenance_work_mem = '77MB'")
            await connection.execute("SELECT pg_advisory_lock(77)")
            pid = await connection.fetchval(ME)
        async with one.system() as connection:
            assert await connection.fetchval(ME) == pid
            assert await connection.fetchval("SHOW maintenance_work_mem") != "77MB"
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1"
            assert await connection.fetchval(locks, pid) == 0
    finally:
        await one.close()


async def test_an_owner_whose_connection_is_cut_hears_that_postgres_is_away(
    db: Database, url: str
) -> None:
    async def cut() -> None:
        async with db.owner() as connection:
            await end(url, await connection.fetchval(ME))
            await connection.fetchval("SELECT 1")

    with pytest.raises(StoreUnavailableError):
        await cut()

    async def misuse() -> None:
        async with db.owner() as connection:
            await connection.fetchval("SELECT $1::int")

    with pytest.raises(asyncpg.InterfaceError):
        await misuse()
