"""A house per test: a fresh organisation and source over the session's stores."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.context.factory import open_engine
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.publish import Stores
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.embedded import ensure_embedded
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.resolve import embedded_servers
from tests.conftest import MakeDatabase
from tests.ingest.harness import REALM, House, WordEmbedder
from tests.ingest.memory_source import MemorySource

MakeHouse = Callable[..., Awaitable[House]]
ENGINE = os.environ.get("TEST_CONTEXT_ENGINE", "basic")
"""``TEST_CONTEXT_ENGINE=advanced`` has every test of this room sync into the embedded kyma."""


@pytest.fixture(scope="session")
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"context_engine": ENGINE})


@pytest.fixture(scope="session")
async def endpoints(settings: Settings, endpoints: Endpoints) -> Endpoints:
    want = embedded_servers(settings)  # the engine's among them
    return await ensure_embedded(settings, want, until_exit_of=os.getpid())


@pytest.fixture(scope="session")
async def database_url(make_database: MakeDatabase) -> str:
    url = await make_database()
    await migrate(url)
    return url


@pytest.fixture(scope="session")
async def db(database_url: str) -> AsyncIterator[Database]:
    database = await open_database(database_url, pool_max=12)
    yield database
    await database.close()


@pytest.fixture(scope="session")
async def engine(
    settings: Settings, endpoints: Endpoints, database_url: str
) -> AsyncIterator[ContextEngine]:
    opened = open_engine(settings, replace(endpoints, database_url=database_url))
    await opened.prepare()
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def chunkers(settings: Settings) -> Chunkers:
    return Chunkers(bundled_tokenizer(), settings)


async def build_house(
    db: Database,
    engine: ContextEngine,
    chunkers: Chunkers,
    settings: Settings,
    source: MemorySource | None = None,
) -> House:
    """A fresh organisation with one source in a migrated database."""
    org_id, source_id = new_id(), new_id()
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
            org_id,
            f"org-{org_id.hex}",
        )
        await connection.execute("INSERT INTO realms (org_id, name) VALUES ($1, $2)", org_id, REALM)
        await connection.execute(
            "INSERT INTO sources (id, org_id, name, connector, realm, status)"
            " VALUES ($1, $2, 'memory', 'memory', $3, 'ready')",
            source_id,
            org_id,
            REALM,
        )
    embedder = WordEmbedder()
    stores = Stores(
        engine, PgVectorIndex(db, settings), SpaceStore(db, settings), OneEmbedder(embedder),
        chunkers, settings.embedding_model,
    )  # fmt: skip
    return House(
        db, settings, open_objects(settings), stores, embedder, source or MemorySource(), org_id,
        source_id,
    )  # fmt: skip


@pytest.fixture
def make_house(
    db: Database, engine: ContextEngine, chunkers: Chunkers, settings: Settings, tmp_path: Path
) -> MakeHouse:
    async def make(source: MemorySource | None = None, **overrides: Any) -> House:
        own = {"agentcy_state_dir": tmp_path, "pipeline_batch_size": 100, **overrides}
        return await build_house(db, engine, chunkers, settings.model_copy(update=own), source)

    return make


@pytest.fixture
async def house(make_house: MakeHouse) -> House:
    return await make_house()
