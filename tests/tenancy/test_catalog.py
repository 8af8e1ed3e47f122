"""The wall as the catalog has it: every table, key, function and grant, whoever adds one."""

from __future__ import annotations

import asyncpg
import pytest

from tests.tenancy import catalog
from tests.tenancy.conftest import Tenants

ROLES = ("agentcy_app", "agentcy_system")
LOGIN = "agentcy_owner"
pytestmark = pytest.mark.attack


@pytest.fixture
async def owner(tenants: Tenants):
    connection = await asyncpg.connect(tenants.url)
    yield connection
    await connection.close()


@pytest.mark.requirement("TEN-01")
async def test_every_table_with_an_org_is_walled_in(owner) -> None:
    tables = await catalog.tenant_tables(owner)
    assert len(tables) > 40
    for row in tables:
        name = row["name"]
        assert row["schema"] == "public", name
        assert (row["enabled"], row["forced"]) == (True, True), name
        wall = "(org_id = app_org())"
        policies = [one for one in row["policies"] if not one.startswith("retention|")]
        assert policies == [
            "system|agentcy_system|true|*|true|true",
            f"tenant|agentcy_app|true|*|{wall}|{wall}",
        ], name
        if len(policies) < len(row["policies"]):  # the owner's, inside one function or trigger
            assert name in ("audit_log", "audit_anchors", "run_events")
        assert {grant.split()[0] for grant in row["grants"]} <= set(ROLES), name


@pytest.mark.requirement("TEN-01")
async def test_a_table_without_an_org_has_a_written_reason(owner) -> None:
    rows = [row for row in await owner.fetch(catalog.TABLES) if row["kind"] in "rpmf"]
    assert {row["name"] for row in rows if not row["tenant"]} == set(catalog.WITHOUT_ORG)
    for row in rows:
        if row["name"] == "organizations":
            assert (row["enabled"], row["forced"]) == (True, True)
            assert any("(id = app_org())|(id = app_org())" in one for one in row["policies"])
        elif not row["tenant"]:
            who = {grant.split()[0] for grant in row["grants"] or ()}
            assert who <= {"agentcy_system"}, row["name"]


@pytest.mark.requirement("TEN-01")
async def test_partitions_are_reached_through_their_table(owner) -> None:
    parts = [row for row in await owner.fetch(catalog.TABLES) if row["part"]]
    assert {row["schema"] for row in parts} == {"public", "vectors"}
    for row in parts:
        if row["schema"] == "vectors":  # COPY refuses policies; a trigger and a constraint stand in
            assert set(row["grants"]) == {"agentcy_app INSERT", "agentcy_system SELECT"}
            fences = await owner.fetch(
                "SELECT tgname::text FROM pg_trigger WHERE tgrelid = $1::text::regclass"
                " AND tgenabled = 'O' AND tgname = 'fence'",
                f"vectors.{row['name']}",
            )
            assert len(fences) == 1
        else:
            assert row["enabled"], row["name"]
            assert not row["grants"], row["name"]


async def test_views_belong_to_the_owner_and_ask_for_the_org(owner) -> None:
    rows = await owner.fetch(catalog.TABLES)
    views = [row for row in rows if row["kind"] in "vm" and row["schema"] != "public"]
    assert views
    for row in views:
        assert (row["kind"], row["owner"]) == ("v", LOGIN)
        text = await owner.fetchval(
            "SELECT pg_get_viewdef($1::text::regclass)", f"live.{row['name']}"
        )
        assert "(org_id = app_org())" in text
        assert row["grants"] == ["agentcy_app SELECT"]
    assert not [row["name"] for row in rows if row["kind"] in "mf"]
    assert not [row["name"] for row in rows if row["kind"] == "S" and row["grants"]]
    for row in rows:
        assert not any(grant.startswith("PUBLIC") for grant in row["grants"] or ()) or (
            row["kind"] == "v" and row["schema"] == "public"
        ), row["name"]


@pytest.mark.requirement("TEN-02")
async def test_foreign_keys_between_tenant_tables_hold_the_org(owner) -> None:
    tenants = {row["name"] for row in await catalog.tenant_tables(owner)}
    keys = [key for key in await owner.fetch(catalog.FOREIGN_KEYS) if key["parent"] in tenants]
    assert len(keys) > 30
    for key in keys:
        assert "org_id" in key["columns"], key["name"]
        place = key["columns"].index("org_id")
        assert key["targets"][place] == "org_id", key["name"]


@pytest.mark.requirement("TEN-02")
async def test_a_unique_key_without_the_org_is_made_of_what_nobody_can_guess(owner) -> None:
    """A refused insert tells that the key is taken; so a key is the org's, or random, or a hash."""
    tenants = {row["name"] for row in await catalog.tenant_tables(owner)}
    shared = {
        key["name"]: list(zip(key["columns"], key["types"], strict=True))
        for key in await owner.fetch(catalog.UNIQUE_KEYS)
        if key["table"] in tenants and "org_id" not in key["columns"]
    }
    guessable = {
        name: columns
        for name, columns in shared.items()
        if not any(kind in ("uuid", "bytea") for _, kind in columns)
    }
    guessable = {name: v for name, v in guessable.items() if not name.startswith("vec_")}
    assert set(guessable) == set(catalog.UNIQUE_WITHOUT_ORG), guessable


async def test_definer_functions_pin_their_path_and_are_not_for_requests(owner) -> None:
    functions = await owner.fetch(catalog.FUNCTIONS)
    definers = [one for one in functions if one["definer"]]
    assert {one["name"] for one in definers} == catalog.DEFINERS
    for one in definers:
        assert "search_path=public, pg_temp" in one["config"], one["name"]
        assert not one["app"], one["name"]
    assert {one["owner"] for one in functions} == {LOGIN}


@pytest.mark.requirement("TEN-01")
async def test_roles_of_work_own_nothing_and_create_nothing(owner) -> None:
    for role in ROLES:
        facts = await owner.fetchrow(
            "SELECT rolsuper, rolbypassrls, rolcanlogin, rolcreatedb, rolcreaterole, rolreplication"
            " FROM pg_roles WHERE rolname = $1", role,
        )  # fmt: skip
        assert not any(facts.values())
        owned = "SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid"
        assert not await owner.fetchval(
            f"{owned} WHERE d.deptype = 'o' AND r.rolname = $1 AND d.dbid ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())", role,
        )  # fmt: skip
        for schema in ("public", "live", "vectors"):
            may = "SELECT has_schema_privilege($1, $2, 'CREATE')"
            assert not await owner.fetchval(may, role, schema), (role, schema)
        assert not await owner.fetchval(
            "SELECT has_database_privilege($1, current_database(), 'CREATE')", role
        )
        assert not await owner.fetchval(
            "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
            " WHERE r.rolname = $1", role,
        )  # fmt: skip


@pytest.mark.requirement("TEN-01")
async def test_the_login_of_the_embedded_server_is_bound_like_everybody(owner) -> None:
    facts = await owner.fetchrow(
        "SELECT rolname, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole FROM pg_roles"
        " WHERE rolname = session_user"
    )
    assert tuple(facts.values()) == (LOGIN, False, False, False, False)
    for role in ROLES:
        assert not await owner.fetchval("SELECT pg_has_role($1, 'USAGE')", role)
        assert await owner.fetchval("SELECT pg_has_role($1, 'SET')", role)


async def test_statistics_of_tenants_are_not_for_requests(owner, tenants: Tenants) -> None:
    await owner.execute("ANALYZE")
    assert await owner.fetchval("SELECT count(*) FROM pg_stats WHERE schemaname = 'vectors'")
    async with tenants.db.tenant(tenants.ours) as connection:
        shown = await connection.fetch(
            "SELECT DISTINCT tablename FROM pg_stats WHERE schemaname NOT IN ('pg_catalog',"
            " 'information_schema')"
        )
        assert not shown
    for hidden in ("pg_statistic", "pg_statistic_ext_data", "pg_authid", "pg_largeobject"):
        async with tenants.db.tenant(tenants.ours) as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT count(*) FROM {hidden}")
    async with tenants.db.system() as busy, tenants.db.tenant(tenants.ours) as connection:
        await busy.fetch("SELECT 'what another one does'")
        seen = await connection.fetch(
            "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
        assert {row["query"] for row in seen} <= {"<insufficient privilege>", ""}
    assert not await owner.fetchval("SELECT count(*) FROM pg_largeobject_metadata")
    assert not await owner.fetchval("SELECT count(*) FROM pg_default_acl")
