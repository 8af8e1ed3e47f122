"""A hosted Postgres gives no superuser: spaces are made, filled, indexed and dropped anyway."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import numpy as np
import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.bulk_copy import copy_chunks
from agentcy_ray.retrieval.embedder import EmbedderInfo, vectors_of
from agentcy_ray.retrieval.index_build import BuildProgress, IndexBuilder
from agentcy_ray.retrieval.recall import recall_at
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.login import ROLES
from agentcy_ray.stores.migrate import EXTENSIONS, migrate
from agentcy_ray.stores.postgres import Database, open_database
from tests.conftest import MakeDatabase
from tests.retrieval.chunks import batch, chunk, units

DIM = 8


@pytest.fixture
async def plain(db: Database, make_database: MakeDatabase) -> AsyncIterator[Database]:
    """A migrated database whose login owns it and nothing else."""
    url = await make_database(superuser=True)  # the roles of requests exist, by way of ``db``
    login, password = f"login_{secrets.token_hex(4)}", secrets.token_hex(8)
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{password}'")
    for role in ROLES:
        await admin.execute(f"GRANT {role} TO {login}")
    for extension in EXTENSIONS:
        await admin.execute(f"CREATE EXTENSION {extension}")
    name = urlsplit(url).path[1:]
    await admin.execute(f'ALTER DATABASE "{name}" OWNER TO {login}')
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    mine = urlunsplit(parts._replace(netloc=f"{login}:{password}@{place}"))
    await migrate(mine)
    opened = await open_database(mine, pool_max=4)
    yield opened
    await opened.close()
    await admin.execute(f"REASSIGN OWNED BY {login} TO CURRENT_USER")
    await admin.execute(f"DROP OWNED BY {login}")
    await admin.close()


@pytest.mark.requirement("TEN-01")
async def test_a_login_without_privileges_makes_fills_indexes_and_drops_a_space(
    plain: Database, settings: Settings
) -> None:
    org, spaces = new_id(), SpaceStore(plain, settings)
    async with plain.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, 'a', 'a')", org
        )
    first = await spaces.ensure_active(org, EmbedderInfo("local:x", "x/8", DIM, 512))
    space = await spaces.create(org, EmbedderInfo("local:y", "y/8", DIM, 512))
    rows = [chunk(f"n_{i}", f"text {i}") for i in range(50)]
    vectors = vectors_of(units(np.random.default_rng(1).standard_normal((50, DIM))))
    async with plain.tenant(org) as connection:
        assert await copy_chunks(connection, space, batch(rows), vectors) == 50
        assert await copy_chunks(connection, space, batch(rows), vectors) == 0
    told: list[BuildProgress] = []

    async def report(progress: BuildProgress) -> None:
        told.append(progress)

    built = await IndexBuilder(plain, spaces, settings).build(space, report)
    assert (len(built.built), built.rows) == (7, 50)
    assert {progress.place for progress in told} == set(range(1, 8))
    assert (await recall_at(plain, spaces, settings, space, sample=10)).mean >= 0.95
    await spaces.fail(org, space.id, {})
    await spaces.drop(org, space.id)
    assert [one.id for one in await spaces.list(org)] == [first.id]
