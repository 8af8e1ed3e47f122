"""``agentcy migrate run``: what a cluster's head does to the stores before Ray starts."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import orjson

from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.migrate import shipped
from tests.conftest import MakeDatabase


async def _migrate(**variables: str) -> tuple[int, dict[str, object]]:
    ours = ("AGENTCY_", "DATABASE_", "REDIS_", "NEO4J_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentcy_ray.cli", "migrate", "run", "--json",
        stdout=asyncio.subprocess.PIPE, env=kept | variables,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, orjson.loads(said)


async def test_heads_that_start_together_prepare_the_stores_once(
    make_database: MakeDatabase,
    superuser_of: Callable[[str], str],
    endpoints: Endpoints,
    tmp_path: Path,
) -> None:
    url = await make_database()
    variables = {
        "DATABASE_URL": url,
        "REDIS_URL": endpoints.redis_url,
        "NEO4J_URI": endpoints.neo4j_uri,
        "NEO4J_USER": endpoints.neo4j_user,
        "NEO4J_PASSWORD": endpoints.neo4j_password,
        "NEO4J_DATABASE": endpoints.neo4j_database,
        "JWT_SECRET": "x" * 32,
        "ENCRYPTION_KEY": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=",
        "ADMIN_PASSWORD": "long-enough-password",
        "AGENTCY_STATE_DIR": str(tmp_path / "state"),
    }
    answers = await asyncio.gather(_migrate(**variables), _migrate(**variables))
    assert answers == [(0, {"version": shipped()[-1].version})] * 2
    connection = await asyncpg.connect(superuser_of(url))  # whom policies let count
    try:
        assert await connection.fetchval("SELECT count(*) FROM organizations") == 1
        assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == len(shipped())
    finally:
        await connection.close()


async def test_stores_of_one_machine_are_left_to_the_command_that_starts_them(
    tmp_path: Path,
) -> None:
    code, answer = await _migrate(AGENTCY_STATE_DIR=str(tmp_path / "state"))
    assert code == 2
    assert "agentcy up" in str(answer["error"])
    assert not (tmp_path / "state").exists()
