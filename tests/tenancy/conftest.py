"""A migrated database with two organisations, a vector table, and a row of the first everywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from tests.conftest import MakeDatabase
from tests.tenancy.rows import fill


@dataclass
class Tenants:
    """Two organisations, and one row of the first in each tenant table."""

    db: Database
    url: str
    ours: UUID
    theirs: UUID
    rows: dict[str, dict[str, Any]]
    """Table → the row of ``theirs``."""
    own: dict[str, dict[str, Any]]
    """Table → the row of ``ours``."""


@pytest.fixture(scope="session")
async def tenants(make_database: MakeDatabase) -> AsyncIterator[Tenants]:
    url = await make_database()
    await migrate(url)
    db = await open_database(url, pool_max=8)
    ours, theirs = new_id(), new_id()
    async with db.system() as connection:
        await connection.executemany(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
            [(ours, "ours"), (theirs, "theirs")],
        )
        made = await connection.fetchval("SELECT create_vector_table($1, $1, 3, 'vector')", theirs)
    owner = await asyncpg.connect(url)
    # Without it rows of both may lie in one table, and the policies alone keep them apart.
    await owner.execute(f"ALTER TABLE vectors.{made} DROP CONSTRAINT owner")
    await owner.close()
    async with db.system() as connection:
        own = await fill(connection, ours)
        rows = await fill(connection, theirs)
    yield Tenants(db, url, ours, theirs, rows, own)
    await db.close()
