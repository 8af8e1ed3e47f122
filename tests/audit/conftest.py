"""A migrated database and a fresh organisation for each test."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database


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
