"""A migrated database, a bell, and an organisation with the starter policies."""

import secrets
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.policy.store import install_starters
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


@pytest.fixture(scope="module")
async def bell(redis_url: str) -> AsyncIterator[Bell]:
    store = await open_redis(redis_url, f"test-{secrets.token_hex(4)}")
    bell = Bell(store)
    yield bell
    await bell.aclose()
    await store.aclose()


@pytest.fixture
async def org(db: Database) -> UUID:
    org_id = new_id()
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, 'Acme')",
            org_id,
            f"org-{org_id.hex}",
        )
        await install_starters(connection, org_id)
    return org_id
