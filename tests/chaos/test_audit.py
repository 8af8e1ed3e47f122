"""The audit log in a storm: nothing that was released is missing from it, and it has no gap."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from agentcy_ray.audit.log import AuditLog
from agentcy_ray.audit.verify import Verification
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.source_records import NewSource
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.embedded import ensure_embedded, stop_embedded
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.vault import Vault
from tests.agent.gateway.world import LabConnector, people_of
from tests.chaos.bursts import Burst, Writer, cut_connections, stored, writing
from tests.conftest import MakeDatabase

pytestmark = pytest.mark.chaos
LIMIT_SECS = 120


@pytest.fixture(scope="module")
async def url(make_database: MakeDatabase) -> str:
    url = await make_database()
    await migrate(url)
    return url


@pytest.fixture(scope="module")
async def db(url: str) -> AsyncIterator[Database]:
    database = await open_database(url, pool_max=4)
    yield database
    await database.close()


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[str]:
    """A Postgres of the test's own, which it may crash."""
    settings = Settings.load({}, agentcy_state_dir=tmp_path)
    try:
        ends = await ensure_embedded(settings, frozenset({"postgres"}), until_exit_of=os.getpid())
        await migrate(ends.database_url)
        yield ends.database_url
    finally:
        await stop_embedded(settings)


async def organisation(db: Database) -> UUID:
    org = new_id()
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, 'Acme')",
            org,
            f"org-{org.hex}",
        )
    return org


async def holds(db: Database, org: UUID, released: list[UUID], at_least: int) -> int:
    """Check the log against what was released; gives its length."""
    seqs, ids = await stored(db, org)
    assert set(released) <= ids
    assert seqs == list(range(1, len(seqs) + 1))
    assert len(ids) == len(seqs) >= at_least
    assert await AuditLog(db).verify(org) == Verification(ok=True, checked=len(seqs))
    return len(seqs)


async def test_a_burst_of_50_000_by_two_processes_over_cut_connections_loses_nothing(
    db: Database, url: str
) -> None:
    org, count = await organisation(db), 25_000
    burst = Burst(url=url, org=str(org), count=count)
    async with asyncio.timeout(LIMIT_SECS), writing(burst) as one, writing(burst) as two:

        async def cut() -> None:
            for part in range(1, 5):
                await one.until(part * count // 5)
                assert await cut_connections(url) > 0
            assert await one.rest() == 0

        async def through(writer: Writer) -> None:
            assert await writer.rest() == 0

        await asyncio.gather(cut(), through(two))
    assert len(set(one.released + two.released)) == 2 * count
    assert await holds(db, org, one.released + two.released, 2 * count) == 2 * count


async def test_a_killed_process_has_released_no_result_without_its_entry(
    db: Database, url: str, redis_url: str, tmp_path: Path
) -> None:
    org = new_id()
    people = await people_of(db, org)
    settings = Settings.load({}, agentcy_state_dir=tmp_path)
    redis = await open_redis(redis_url, f"burst-{org}")
    bell = Bell(redis)
    sources = SourceStore(db, Vault(bytes(32)), Registry([LabConnector()], settings), bell)
    await sources.create(
        people["owner"], NewSource(name="bench", connector="lab", realm="development")
    )
    burst = Burst(
        url=url, org=str(org), count=2_000, redis_url=redis_url, state_dir=str(tmp_path),
        principal=people["member"].model_dump(mode="json"),
    )  # fmt: skip
    async with asyncio.timeout(LIMIT_SECS), writing(burst) as doomed, writing(burst) as other:

        async def doom() -> None:
            await doomed.until(700)
            doomed.process.kill()
            assert await doomed.rest() == -signal.SIGKILL

        async def survive() -> None:
            assert await other.rest() == 0

        await asyncio.gather(doom(), survive())
    assert len(other.released) == burst.count
    await holds(db, org, doomed.released + other.released, burst.count + 700)
    await bell.aclose()
    await redis.aclose()


async def test_a_crash_of_postgres_in_a_burst_costs_time_and_no_entry(alone: str) -> None:
    db = await open_database(alone, pool_max=2)
    org, count = await organisation(db), 5_000
    await db.close()
    burst = Burst(url=alone, org=str(org), count=count)
    async with asyncio.timeout(LIMIT_SECS), writing(burst) as writer:
        await writer.until(1_000)
        admin = await asyncpg.connect(alone)
        backend = await admin.fetchval("SELECT pg_backend_pid()")
        os.kill(backend, signal.SIGKILL)  # the server ends all others, and recovers
        assert await writer.rest() == 0
        admin.terminate()
    db = await open_database(alone, pool_max=2)
    assert await holds(db, org, writer.released, count) == count
    await db.close()
