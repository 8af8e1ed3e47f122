"""A migrated database, organisations to fill, and the shipped embedder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from tests.conftest import MakeDatabase

MakeOrg = Callable[[], Awaitable[UUID]]


@pytest.fixture(scope="session")
async def db(make_database: MakeDatabase) -> AsyncIterator[Database]:
    url = await make_database()
    await migrate(url)
    database = await open_database(url, pool_max=6)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def make_org(db: Database) -> MakeOrg:
    async def make() -> UUID:
        org_id = new_id()
        async with db.system() as connection:
            await connection.execute(
                "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, 'Acme')",
                org_id,
                f"org-{org_id.hex}",
            )
        return org_id

    return make


@pytest.fixture
async def org(make_org: MakeOrg) -> UUID:
    return await make_org()


@pytest.fixture(scope="session")
async def embedder(settings: Settings) -> AsyncIterator[LocalEmbedder]:
    loaded = await asyncio.to_thread(LocalEmbedder.load, settings)
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def spaces(db: Database, settings: Settings) -> SpaceStore:
    return SpaceStore(db, settings)


@pytest.fixture(scope="session")
def index(db: Database, settings: Settings) -> PgVectorIndex:
    return PgVectorIndex(db, settings)
