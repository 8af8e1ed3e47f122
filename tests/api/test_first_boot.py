"""First boot makes one set of first rows, however often and at once it runs."""

from __future__ import annotations

import asyncio

import pytest

from agentcy_ray.api.bootstrap import first_boot
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import BUILT_IN_REALMS
from agentcy_ray.identity.passwords import Passwords
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.secrets import resolve_secrets
from tests.conftest import MakeDatabase


@pytest.mark.requirement("RUN-14")
async def test_boots_at_once_make_one_set_and_a_later_one_makes_nothing(
    make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = await make_database()
    settings = Settings.load({}, agentcy_state_dir=tmp_path_factory.mktemp("boot"))

    async def boot() -> bool:
        await migrate(url)
        db = await open_database(url, pool_max=2)
        try:
            made = await first_boot(db, settings, resolve_secrets(settings).admin_password)
        finally:
            await db.close()
        return made.created

    assert sorted(await asyncio.gather(boot(), boot(), boot())) == [False, False, True]
    assert not await boot()
    db = await open_database(url, pool_max=2)
    async with db.system() as connection:
        org = await connection.fetchrow("SELECT * FROM organizations")
        users = await connection.fetch("SELECT * FROM users")
        realms = await connection.fetch("SELECT name, built_in FROM realms")
        policies = await connection.fetch("SELECT name, enabled, starter FROM policies")
        agents = await connection.fetch("SELECT name FROM agents")
    await db.close()
    assert org["name"] == "default"
    assert [(user["email"], user["roles"]) for user in users] == [("admin@localhost", ["owner"])]
    assert {row["name"] for row in realms} == set(BUILT_IN_REALMS)
    assert all(row["built_in"] for row in realms)
    assert len(policies) == 4
    assert all(row["enabled"] and row["starter"] for row in policies)
    assert [row["name"] for row in agents] == ["default"]
    password = resolve_secrets(settings).admin_password
    assert len(password) >= 12
    assert await Passwords().verify(users[0]["password_hash"], password)
    assert (settings.state_dir / "secrets.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("demo", [True, False])
async def test_a_first_password_must_be_changed_outside_of_a_demo(
    make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory, demo: bool
) -> None:
    url = await make_database()
    settings = Settings.load(
        {}, agentcy_state_dir=tmp_path_factory.mktemp("boot"), agentcy_features_demo=demo
    )
    await migrate(url)
    db = await open_database(url, pool_max=2)
    await first_boot(db, settings, resolve_secrets(settings).admin_password)
    async with db.system() as connection:
        assert await connection.fetchval("SELECT must_change_password FROM users") is not demo
    await db.close()
