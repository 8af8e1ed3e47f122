"""The login of the database has no rights of its own, or it is said which it has and what to do."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.embedded.postgres_login import LOGIN, give_login
from agentcy_ray.stores.login import ROLES, login_check, read_login
from agentcy_ray.stores.migrate import EXTENSIONS, migrate
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.versions import Check, require
from tests.conftest import MakeDatabase

MakeLogin = Callable[[str], Awaitable[str]]


@pytest.fixture
async def make_login(make_database: MakeDatabase) -> AsyncIterator[MakeLogin]:
    """A login that owns a database and has the roles, granted with ``how``; gives its URL."""
    made: list[tuple[asyncpg.Connection, str]] = []

    async def make(how: str) -> str:
        url = await make_database(superuser=True)
        login, password = f"login_{secrets.token_hex(4)}", secrets.token_hex(8)
        admin = await asyncpg.connect(url)
        made.append((admin, login))
        await admin.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{password}'")
        for role in ROLES:
            await admin.execute(f"GRANT {role} TO {login} {how}")
        for extension in EXTENSIONS:
            await admin.execute(f"CREATE EXTENSION {extension}")
        parts = urlsplit(url)
        await admin.execute(f'ALTER DATABASE "{parts.path[1:]}" OWNER TO {login}')
        place = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{login}:{password}@{place}"))

    yield make
    for admin, login in made:
        await admin.execute(f"REASSIGN OWNED BY {login} TO CURRENT_USER; DROP OWNED BY {login}")
        await admin.execute(f"DROP ROLE {login}")
        await admin.close()


async def checked(url: str) -> Check:
    connection = await asyncpg.connect(url)
    try:
        return login_check(await read_login(connection))
    finally:
        await connection.close()


@pytest.mark.requirement("TEN-01")
async def test_the_embedded_login_is_fine_and_a_superuser_is_named(
    make_database: MakeDatabase,
) -> None:
    assert (await checked(await make_database())).ok
    named = await checked(await make_database(superuser=True))
    assert (named.ok, named.advisory) == (False, True)
    assert "superuser" in named.found
    assert "CREATE ROLE agentcy_owner" in named.remedy
    require([named])  # a start goes on


@pytest.mark.requirement("TEN-01")
async def test_what_a_login_inherits_is_taken_from_it_where_it_may_do_so(
    make_login: MakeLogin,
) -> None:
    url = await make_login("WITH ADMIN TRUE, INHERIT FALSE, SET TRUE")
    await migrate(url)
    assert (await checked(url)).ok
    bare = await asyncpg.connect(url)
    assert await bare.fetch("SELECT * FROM users") == []
    await bare.close()


@pytest.mark.requirement("TEN-01")
async def test_an_inheriting_login_starts_and_is_told_the_way(make_login: MakeLogin) -> None:
    url = await make_login("")
    await migrate(url)
    named = await checked(url)
    assert (named.ok, named.advisory) == (False, True)
    assert "agentcy_app, agentcy_system" in named.found
    assert named.remedy.count("WITH INHERIT FALSE") == 2


async def test_a_database_of_an_earlier_version_is_handed_over_with_all_that_is_in_it(
    make_database: MakeDatabase, settings: Settings
) -> None:
    url = await make_database(superuser=True)
    await migrate(url)
    org = new_id()
    admin = await asyncpg.connect(url)
    await admin.execute(
        "INSERT INTO organizations (id, name, display_name) VALUES ($1, 'a', 'a')", org
    )
    await admin.execute("SELECT create_vector_table($1, $1, 3, 'vector')", org)
    folder = Layout(settings.state_dir).data("postgres")
    password = (folder / "login-password").read_text()
    for _ in range(2):
        await give_login(admin, urlsplit(url).path[1:], password)
    assert not await admin.fetch(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner"
        " WHERE r.rolsuper AND c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN"
        " ('public', 'live', 'vectors')) AND c.relkind IN ('r', 'p', 'v', 'i', 'I') AND NOT EXISTS"
        " (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')"
    )
    await admin.close()
    place = urlsplit(url).netloc.rpartition("@")[2]
    mine = urlunsplit(urlsplit(url)._replace(netloc=f"{LOGIN}:{password}@{place}"))
    assert await migrate(mine) == []
    db = await open_database(mine, pool_max=1)
    async with db.tenant(org) as connection:
        assert await connection.fetchval("SELECT id FROM organizations") == org
    async with db.system() as connection:
        await connection.execute("SELECT prune_audit($1, now(), 10)", org)
        await connection.execute("SELECT make_audit_month('2031-01-01')")
        await connection.execute("DELETE FROM organizations")
    await db.close()
