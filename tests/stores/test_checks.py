"""What start-up refuses, and what the doctor says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.checks import check_all, check_postgres, check_stores, require_stores
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.versions import (
    Extension,
    PostgresFacts,
    at_least,
    graph_check,
    postgres_checks,
    redis_check,
    require,
)
from tests.conftest import MakeDatabase

FINE = PostgresFacts(
    version="16.4",
    builtin_uuid=True,
    extensions={"vector": Extension("0.8.0", "0.8.0"), "pg_trgm": Extension("1.6", "1.6")},
)


def test_versions_are_compared_as_numbers() -> None:
    assert at_least("14.0", (14,))
    assert at_least("0.10.0", (0, 5, 0))
    assert at_least("Neo4j/5.26.0 compatible (ArcadeDB 26.10.2)", (5, 13))
    assert at_least("v1.30.2+k3s1", (1, 27))
    assert not at_least("5.9", (5, 13))
    assert not at_least("unknown", (1,))


def test_a_recent_database_passes() -> None:
    require(postgres_checks(FINE))


@pytest.mark.requirement("RUN-09")
@pytest.mark.parametrize(
    ("checks", "found", "needed"),
    [
        (postgres_checks(replace(FINE, version="13.16")), "13.16", ">= 14"),
        (
            postgres_checks(
                replace(FINE, extensions={**FINE.extensions, "vector": Extension("0.4.4", "0.4.4")})
            ),
            "0.4.4",
            ">= 0.5.0",
        ),
        ([redis_check("5.0.14")], "5.0.14", ">= 6"),
        ([graph_check("Neo4j/5.12.0")], "Neo4j/5.12.0", ">= 5.13"),
    ],
)
def test_old_versions_are_refused_with_found_and_needed(
    checks: list[object], found: str, needed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        require(checks)  # type: ignore[arg-type]
    assert f"found {found}, needs {needed}" in caught.value.message


@pytest.mark.requirement("RUN-10")
@pytest.mark.parametrize("name", ["vector", "pg_trgm"])
def test_missing_extension_prints_the_statement(name: str) -> None:
    for offered in (None, "1.0.0"):
        missing = {**FINE.extensions, name: Extension(offered=offered, creatable=False)}
        with pytest.raises(ConfigError, match=f'CREATE EXTENSION "{name}";'):
            require(postgres_checks(replace(FINE, extensions=missing)))


def test_extension_that_may_be_created_is_fine() -> None:
    creatable = {**FINE.extensions, "vector": Extension(offered="0.8.0", creatable=True)}
    require(postgres_checks(replace(FINE, extensions=creatable)))


def test_old_extension_with_a_newer_one_on_offer_is_told_to_update() -> None:
    old = {**FINE.extensions, "vector": Extension("0.4.4", "0.8.0")}
    with pytest.raises(ConfigError, match="ALTER EXTENSION vector UPDATE"):
        require(postgres_checks(replace(FINE, extensions=old)))


@pytest.mark.requirement("RUN-11")
def test_any_of_three_uuid_generators_passes_and_none_is_refused() -> None:
    bare = replace(FINE, builtin_uuid=False)
    for name in ("pgcrypto", "uuid-ossp"):
        require(
            postgres_checks(
                replace(bare, extensions={**FINE.extensions, name: Extension("1.3", "1.3")})
            )
        )
    with pytest.raises(ConfigError, match="uuid"):
        require(postgres_checks(bare))


@pytest.mark.requirement("RUN-10")
async def test_real_database_whose_user_may_not_create_extensions_is_refused(
    make_database: MakeDatabase,
) -> None:
    url = await make_database(superuser=True)
    owner = await asyncpg.connect(url)
    name = f"plain_{url.split('/test_')[1][:12]}"
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'plain'")
    try:
        plain = await asyncpg.connect(url, user=name, password="plain")
        with pytest.raises(ConfigError, match='CREATE EXTENSION "vector";'):
            await check_postgres(plain)
        await plain.close()
    finally:
        await owner.execute(f"DROP ROLE {name}")
    await check_postgres(owner)
    names = await owner.fetch("SELECT extname FROM pg_extension")
    assert {row[0] for row in names} == {"plpgsql"}  # looked at, not changed
    await owner.close()


@pytest.mark.requirement("RUN-02")
async def test_embedded_stores_pass_every_check(endpoints: Endpoints) -> None:
    checks = await check_stores(endpoints)
    assert [check.name for check in checks if check.ok] == [
        "postgres", "vector", "pg_trgm", "uuid", "login", "redis", "graph",
    ]  # fmt: skip


async def test_start_waits_for_a_store_only_so_long(endpoints: Endpoints) -> None:
    away = replace(endpoints, redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailableError, match="REDIS_URL"):
        await require_stores(away, patience=0)


async def test_refused_credentials_name_the_setting(endpoints: Endpoints) -> None:
    wrong_graph = replace(endpoints, neo4j_password="wrong")
    with pytest.raises(ConfigError, match="NEO4J_PASSWORD"):
        await check_stores(wrong_graph, patience=0)
    wrong_postgres = replace(
        endpoints, database_url=endpoints.database_url.replace("agentcy_owner:", "agentcy_owner:x")
    )
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        await check_stores(wrong_postgres, patience=0)


async def test_doctor_reports_what_runs_and_what_rests(
    settings: Settings, endpoints: Endpoints, tmp_path: Path
) -> None:
    running = {check.name: check for check in await check_all(settings)}
    assert running["postgres"].ok
    assert running["graph"].found.startswith("Neo4j/")
    assert {"kernel", "disk", "shared memory", "gpu"} <= set(running)
    at_rest = {
        check.name: check
        for check in await check_all(Settings.load({}, agentcy_state_dir=tmp_path / "none"))
    }
    assert "not running" in at_rest["redis"].found
    assert at_rest["redis"].ok


async def test_doctor_reports_a_store_that_does_not_answer(tmp_path: Path) -> None:
    environment = {"REDIS_URL": "redis://127.0.0.1:1/0"}
    found = await check_all(Settings.load(environment, agentcy_state_dir=tmp_path))
    redis = next(check for check in found if check.name == "redis")
    assert not redis.ok
    assert "REDIS_URL" in redis.remedy
