"""Row-level security is the wall: looked up in the catalog, then run against."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from agentcy_ray.stores.postgres import Database, open_database
from tests.tenancy.conftest import Tenants
from tests.tenancy.rows import row_for, tables

_CATALOG = """
SELECT c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
  (SELECT array_agg(p.polname || '|' || pg_get_expr(p.polqual, p.polrelid) || '|'
     || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'none') || '|' || p.polcmd::text)
   FROM pg_policy p WHERE p.polrelid = c.oid
     AND p.polroles = ARRAY['agentcy_app'::regrole::oid]) AS policies,
  EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid AND 0 = ANY(p.polroles)) AS public
FROM pg_class c WHERE c.oid = $1::text::regclass
"""
UNBOUND = (asyncpg.UndefinedObjectError, asyncpg.InvalidTextRepresentationError)
"""Of a connection that never had an org, and of one whose org went with its transaction."""


@pytest.mark.requirement("TEN-01")
async def test_every_table_with_an_org_is_walled_in(tenants: Tenants) -> None:
    async with tenants.db.system() as connection:
        names = [*await tables(connection), "organizations"]
        assert len(names) > 25
        for name in names:
            row = await connection.fetchrow(_CATALOG, name)
            assert (row["enabled"], row["forced"], row["public"]) == (True, True, False), name
            key = "id" if name == "organizations" else "org_id"
            wall = f"({key} = app_org())"
            assert row["policies"] == [f"tenant|{wall}|{wall}|*"], name


@pytest.mark.requirement("TEN-01")
async def test_no_role_of_requests_may_pass_the_wall(tenants: Tenants) -> None:
    async with tenants.db.system() as connection:
        roles = await connection.fetch(
            "SELECT rolsuper, rolbypassrls, rolcanlogin FROM pg_roles"
            " WHERE rolname IN ('agentcy_app', 'agentcy_system')"
        )
        owned = await connection.fetchval(
            "SELECT count(*) FROM pg_class WHERE relowner = 'agentcy_app'::regrole"
        )
    assert [tuple(role) for role in roles] == [(False, False, False)] * 2
    assert owned == 0


@pytest.mark.requirement("TEN-01")
async def test_a_statement_without_an_org_fails_and_does_not_read_as_empty(
    tenants: Tenants,
) -> None:
    connection = await asyncpg.connect(tenants.url)
    try:
        for name in [*tenants.rows, "organizations", f"live.{_vectors(tenants)}"]:
            async with connection.transaction():
                await connection.execute("SET LOCAL ROLE agentcy_app")
                with pytest.raises(UNBOUND, match=r"app\.org_id|uuid"):
                    await _in_savepoint(connection, f"SELECT * FROM {name}")
                for bad in ("", "everyone"):
                    await connection.execute(f"SET LOCAL app.org_id = '{bad}'")
                    with pytest.raises(asyncpg.DataError):
                        await _in_savepoint(connection, f"SELECT * FROM {name}")
                await connection.execute("RESET app.org_id")
    finally:
        await connection.close()


@pytest.mark.requirement("TEN-02")
async def test_no_row_of_another_org_can_be_read_written_or_moved(tenants: Tenants) -> None:
    everywhere = tenants.rows
    assert len(everywhere) > 25
    async with tenants.db.tenant(tenants.ours) as connection:
        for name in everywhere:
            seen = await connection.fetch(f"SELECT org_id FROM {name}")
            assert {row["org_id"] for row in seen} == {tenants.ours}, name
            gone = f"DELETE FROM {name} WHERE org_id = '{tenants.theirs}'"
            assert await _outcome(connection, gone) in ("DELETE 0", "denied"), name
            change = f"UPDATE {name} SET org_id = org_id WHERE org_id = '{tenants.theirs}'"
            assert await _outcome(connection, change) in ("UPDATE 0", "denied"), name
            move = f"UPDATE {name} SET org_id = '{tenants.theirs}'"
            assert await _outcome(connection, move) == "denied", name
            values = await row_for(
                connection,
                name,
                tenants.theirs,
                {"organizations": {"id": tenants.theirs}, **everywhere},
            )
            assert values is not None
            places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
            insert = f"INSERT INTO {name} ({', '.join(values)}) VALUES ({places})"
            assert await _outcome(connection, insert, *values.values()) == "denied", name
        assert await connection.fetch("SELECT id FROM organizations") == [(tenants.ours,)]
        assert await connection.fetch(f"SELECT * FROM live.{_vectors(tenants)}") != []
    async with tenants.db.system() as connection:
        for name, row in everywhere.items():
            found = await connection.fetch(
                f"SELECT * FROM {name} WHERE org_id = $1", tenants.theirs
            )
            assert [repr(dict(one)) for one in found] == [repr(row)], name


async def test_a_row_cannot_refer_to_a_row_of_another_org(tenants: Tenants) -> None:
    theirs = tenants.rows["sources"]["id"]
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with tenants.db.tenant(tenants.ours) as connection:
            await connection.execute(
                "INSERT INTO packages (id, org_id, source_id, state, manifest, digest, counts)"
                " VALUES (gen_random_uuid(), $1, $2, 'full', '{}', 'x', '{}')",
                tenants.ours, theirs,
            )  # fmt: skip


async def test_nobody_can_change_or_remove_an_audit_entry(tenants: Tenants) -> None:
    for org in (tenants.ours, None):
        for statement in ("UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log"):
            scope = tenants.db.system() if org is None else tenants.db.tenant(org)
            async with scope as connection:
                assert await _outcome(connection, statement) == "denied"


@pytest.mark.requirement("TEN-03")
async def test_no_org_leaks_over_pooled_connections_under_random_cancels(
    tenants: Tenants,
) -> None:
    db = await open_database(tenants.url, pool_max=4)
    chance = random.Random(7)
    orgs = [tenants.ours, tenants.theirs]
    seen: list[bool] = []

    async def look(number: int) -> None:
        org = orgs[number % 2]
        for _ in range(3):
            async with db.tenant(org) as connection:
                rows = await connection.fetch("SELECT org_id, pg_sleep(0.001) FROM realms")
                seen.append({row["org_id"] for row in rows} == {org})
            assert await _settings_left(db) == (None, True)

    tasks = [asyncio.create_task(look(number)) for number in range(200)]
    for task in chance.sample(tasks, 120):
        await asyncio.sleep(chance.random() * 0.004)
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(isinstance(end, asyncio.CancelledError) for end in ended)
    others = [end for end in ended if end and not isinstance(end, asyncio.CancelledError)]
    await db.close()
    assert not others
    assert cancelled > 20
    assert len(seen) >= 240
    assert all(seen)


async def _settings_left(db: Database) -> tuple[str | None, bool]:
    """What a connection fresh out of the pool still carries: its org, and the login role."""
    async with db._pool.acquire() as connection:
        org = await connection.fetchval("SELECT nullif(current_setting('app.org_id', true), '')")
        return org, await connection.fetchval("SELECT current_user = session_user")


async def _outcome(connection: asyncpg.Connection, statement: str, *args: object) -> str:
    """The command tag, or ``denied``."""
    await connection.execute("SAVEPOINT before")
    try:
        return await connection.execute(statement, *args)
    except asyncpg.InsufficientPrivilegeError:
        return "denied"
    finally:
        await connection.execute("ROLLBACK TO before")


async def _in_savepoint(connection: asyncpg.Connection, statement: str) -> None:
    async with connection.transaction():
        await connection.fetch(statement)


def _vectors(tenants: Tenants) -> str:
    return next(name for name in tenants.rows if name.startswith("vec_"))
