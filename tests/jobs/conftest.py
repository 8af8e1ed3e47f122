"""A migrated database with an organisation, and Redis under a prefix of its own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import RedisStore, open_redis
from tests.conftest import MakeDatabase


@pytest.fixture(scope="session")
async def db(make_database: MakeDatabase) -> AsyncIterator[Database]:
    url = await make_database()
    await migrate(url)
    database = await open_database(url, pool_max=10)
    yield database
    await database.close()


@pytest.fixture
async def org(db: Database) -> UUID:
    return await add_org(db)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisStore]:
    store = await open_redis(redis_url, f"test-{secrets.token_hex(4)}")
    yield store
    await store.aclose()


async def add_org(db: Database) -> UUID:
    org_id = new_id()
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
            org_id,
            f"org-{org_id.hex}",
        )
    return org_id
