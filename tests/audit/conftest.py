"""A migrated database and a fresh organisation for each test."""

import secrets
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import open_redis


@pytest.fixture(scope="module")
async def database_url(make_database) -> str:
    url = await make_database()
    await migrate(url)
    return url


@pytest.fixture(scope="module")
async def db(database_url: str) -> AsyncIterator[Database]:
    database = await open_database(database_url, pool_max=8)
    yield database
    await database.close()


@pytest.fixture
async def org(db: Database) -> UUID:
    org_id = new_id()
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, 'Acme')",
            org_id,
            f"org-{org_id.hex}",
        )
    return org_id


@pytest.fixture
async def bells(redis_url: str) -> AsyncIterator[list[Bell]]:
    """The bells of two processes."""
    prefix = f"test-{secrets.token_hex(4)}"
    stores = [await open_redis(redis_url, prefix) for _ in range(2)]
    bells = [Bell(store) for store in stores]
    yield bells
    for bell in bells:
        await bell.aclose()
    for store in stores:
        await store.aclose()
