"""Schema migrations."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.stores.migrate import migrate, shipped
from tests.conftest import MakeDatabase


@pytest.mark.requirement("RUN-07")
async def test_an_empty_database_gets_the_whole_schema(make_database: MakeDatabase) -> None:
    url = await make_database()
    assert await migrate(url) == [migration.name for migration in shipped()]
    connection = await asyncpg.connect(url)
    tables = {row[0] for row in await connection.fetch("SELECT tablename FROM pg_tables")}
    await connection.close()
    assert {"organizations", "sources", "runs", "approvals", "audit_log", "jobs"} <= tables
    assert await migrate(url) == []


@pytest.mark.requirement("RUN-08")
async def test_starters_at_the_same_time_apply_each_migration_once(
    make_database: MakeDatabase,
) -> None:
    url = await make_database()
    done = await asyncio.gather(*(migrate(url) for _ in range(8)))
    assert sorted(name for names in done for name in names) == sorted(
        migration.name for migration in shipped()
    )


async def test_a_changed_file_stops_the_start(make_database: MakeDatabase) -> None:
    url = await make_database()
    await migrate(url)
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE schema_migrations SET checksum = 'other' WHERE version = 2")
    await connection.close()
    with pytest.raises(ConfigError, match="0002_ingest"):
        await migrate(url)
