"""Every tenant table, by every role, with every verb: a forged tenant gets and learns nothing.

Tables, keys and foreign keys come from the catalog, so a table that is added is attacked too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.postgres import set_codecs
from tests.tenancy import catalog, probes
from tests.tenancy.conftest import Tenants
from tests.tenancy.probes import Target, rows_of, tag_of, target
from tests.tenancy.rows import row_for

pytestmark = pytest.mark.attack
WHO = ("other tenant", "no tenant", "login")


@pytest.fixture(scope="module")
async def targets(tenants: Tenants) -> list[Target]:
    async with tenants.db.system() as connection:
        return [
            await target(connection, table, tenants.ours, row)
            for table, row in tenants.rows.items()
        ]


@pytest.fixture(scope="module", autouse=True)
async def untouched(tenants: Tenants) -> AsyncIterator[None]:
    """The rows of the other organisation are as they were, whatever was tried."""
    before = await _all_of(tenants)
    yield
    assert await _all_of(tenants) == before


async def _all_of(tenants: Tenants) -> dict[str, list[str]]:
    async with tenants.db.system() as connection:
        return {
            table: [
                repr(dict(row))
                for row in await connection.fetch(
                    f"SELECT * FROM {table} WHERE org_id = $1", tenants.theirs
                )
            ]
            for table in tenants.rows
        }


@asynccontextmanager
async def acting_as(tenants: Tenants, who: str) -> AsyncIterator[Any]:
    """A transaction that ends without a trace."""
    if who == "other tenant":
        async with tenants.db.tenant(tenants.ours) as connection:
            yield connection
        return
    bare = await asyncpg.connect(tenants.url)
    try:
        await set_codecs(bare)
        await bare.execute("BEGIN")
        if who == "no tenant":
            await bare.execute("SET LOCAL ROLE agentcy_app")
        yield bare
    finally:
        await bare.close()


@pytest.mark.requirement("TEN-02")
@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("probe", probes.READS)
async def test_no_row_is_read(
    tenants: Tenants, targets: list[Target], who: str, probe: str
) -> None:
    fine = {"other tenant": ([], "denied"), "no tenant": ("unbound", "denied", [])}.get(who, ([],))
    async with acting_as(tenants, who) as connection:
        for one in targets:
            got = await rows_of(connection, one.sql(probes.READS[probe]))
            assert got in fine, (one.table, got)


@pytest.mark.requirement("TEN-02")
@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("probe", probes.WRITES)
async def test_no_row_is_written_or_moved(
    tenants: Tenants, targets: list[Target], who: str, probe: str
) -> None:
    async with acting_as(tenants, who) as connection:
        for one in targets:
            got = await tag_of(connection, one.sql(probes.WRITES[probe]))
            fine = (
                ("unbound", "denied") if who == "no tenant" else ("denied", f"{got.split()[0]} 0")
            )
            assert got in fine, (one.table, got)


@pytest.mark.requirement("TEN-02")
@pytest.mark.parametrize("probe", probes.DENIED)
async def test_a_request_may_not_touch_the_wall(
    tenants: Tenants, targets: list[Target], probe: str
) -> None:
    async with acting_as(tenants, "other tenant") as connection:
        for one in targets:
            got = await tag_of(connection, one.sql(probes.DENIED[probe]))
            assert got == "denied", (one.table, got)


@pytest.mark.requirement("TEN-02")
@pytest.mark.parametrize("who", WHO)
async def test_no_row_is_inserted_for_another_org(
    tenants: Tenants, targets: list[Target], who: str
) -> None:
    parents = {"organizations": {"id": tenants.theirs}, **tenants.rows}
    async with acting_as(tenants, who) as connection:
        for one in targets:
            values = await row_for(connection, one.table, tenants.theirs, parents)
            got = await tag_of(connection, _insert(one.table, values), *values.values())
            assert got in ("denied", "unbound"), (one.table, got)
            merge = (
                f"MERGE INTO {one.table} USING (SELECT 1) s ON false WHEN NOT MATCHED THEN"
                f" INSERT ({', '.join(values)}) VALUES ({_places(values)})"
            )
            got = await tag_of(connection, merge, *values.values())
            assert got in ("denied", "unbound"), (one.table, got)


@pytest.mark.requirement("TEN-02")
async def test_an_upsert_on_a_row_of_another_org_neither_changes_nor_shows_it(
    tenants: Tenants, targets: list[Target]
) -> None:
    parents = {"organizations": {"id": tenants.ours}, **tenants.own}
    met = 0
    async with acting_as(tenants, "other tenant") as connection:
        for one in targets:
            keys = await connection.fetchval(probes.PRIMARY, one.table)
            values = await row_for(connection, one.table, tenants.ours, parents)
            assert values is not None
            values |= {key: tenants.rows[one.table][key] for key in keys if key != "org_id"}
            where = f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET org_id = {one.table}.org_id"
            for end in (f"{where} RETURNING {one.table}.*", "ON CONFLICT DO NOTHING RETURNING *"):
                await connection.execute("SAVEPOINT probe")
                try:
                    rows = await connection.fetch(
                        f"{_insert(one.table, values)} {end}", *values.values()
                    )
                    assert all(row["org_id"] == tenants.ours for row in rows), one.table
                except asyncpg.PostgresError as error:
                    met += 1
                    _tells_nothing(error, one, tenants)
                finally:
                    await connection.execute("ROLLBACK TO probe")
    assert met > 10


@pytest.mark.requirement("TEN-02")
async def test_a_reference_to_a_row_of_another_org_fails_like_one_to_nothing(
    tenants: Tenants,
) -> None:
    """Otherwise the error of a foreign key would tell which ids exist.

    Where a parent may have one such child, a key of the parent's id alone answers first. It tells
    whoever knows a random id of 128 bits already that there is such a child, and nothing of it.
    """
    parents = {"organizations": {"id": tenants.ours}, **tenants.own}
    tried, taken = 0, set[str]()
    async with acting_as(tenants, "other tenant") as connection:
        for key in await connection.fetch(catalog.FOREIGN_KEYS):
            child, parent = key["child"], key["parent"]
            if parent == "organizations" or child not in tenants.rows:
                continue
            values = await row_for(connection, child, tenants.ours, parents)
            assert values is not None
            links = list(zip(key["columns"], key["targets"], strict=True))
            told: list[tuple[str, str]] = []
            for row in (tenants.rows[parent], None):
                aimed = dict(values)
                for column, column_there in links:
                    if column != "org_id":
                        aimed[column] = row[column_there] if row else _other(values[column])
                await connection.execute("SAVEPOINT probe")
                try:
                    statement = _insert(child, aimed)
                    await connection.execute(statement, *aimed.values())
                    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                    told.append(("inserted", ""))
                except asyncpg.PostgresError as error:
                    told.append((type(error).__name__, str(error)))
                finally:
                    await connection.execute("ROLLBACK TO probe")
            assert told[1][0] == "ForeignKeyViolationError", (key["name"], told)
            if told[0][0] == "UniqueViolationError":
                taken.add(told[0][1].split('"')[1])
            else:
                assert told[0] == told[1], (key["name"], told)
            tried += 1
        keys = {row["name"]: row["types"] for row in await connection.fetch(catalog.UNIQUE_KEYS)}
    assert tried > 30
    assert taken
    assert not [name for name in taken if "uuid" not in keys[name]]


@pytest.mark.requirement("TEN-02")
async def test_bulk_ways_lead_around_nothing(tenants: Tenants, targets: list[Target]) -> None:
    async with acting_as(tenants, "other tenant") as connection:
        for one in targets:
            sent = bytearray()

            async def take(data: bytes, into: bytearray = sent) -> None:
                into += data

            await connection.execute("SAVEPOINT probe")
            try:
                await connection.copy_from_query(
                    f"SELECT org_id FROM {one.table}", output=take, format="text"
                )
            except asyncpg.InsufficientPrivilegeError:
                sent.clear()
            assert set(sent.decode().split()) <= {str(tenants.ours)}, one.table
            await connection.execute("ROLLBACK TO probe")
            with pytest.raises(probes.REFUSED):
                await connection.copy_records_to_table(
                    one.table, records=[(tenants.theirs,)], columns=["org_id"]
                )
            await connection.execute("ROLLBACK TO probe")
        for statement in ("LISTEN anything", "SELECT pg_notify('anything', '')"):
            await connection.execute(statement)  # nobody of ours speaks or listens there


@pytest.mark.requirement("TEN-02")
async def test_partitions_are_shut_to_requests(tenants: Tenants) -> None:
    async with acting_as(tenants, "other tenant") as connection:
        parts = [row for row in await connection.fetch(catalog.TABLES) if row["part"]]
        assert len(parts) > 3
        for part in parts:
            name = f"{part['schema']}.{part['name']}"
            for statement in (
                f"SELECT count(*) FROM {name}", f"UPDATE {name} SET org_id = org_id",
                f"DELETE FROM {name}", f"TRUNCATE {name}", f"LOCK TABLE {name}",
                f"INSERT INTO {name} (org_id) VALUES ('{tenants.theirs}')",
            ):  # fmt: skip
                assert await tag_of(connection, statement) == "denied", statement


@pytest.mark.requirement("TEN-02")
async def test_no_function_takes_a_text_for_a_statement(tenants: Tenants) -> None:
    """Functions of ours that a request may call, with a text that would change the tenant."""
    async with acting_as(tenants, "other tenant") as connection:
        functions = [
            one for one in await connection.fetch(catalog.FUNCTIONS)
            if one["app"] and not one["trigger"] and one["kind"] == "f"
        ]  # fmt: skip
        assert {one["name"] for one in functions} >= {"app_org", "budget_lock", "vector_indexes"}
        evil = f"'; SELECT set_config('app.org_id', '{tenants.theirs}', true); --"
        for one in functions:
            calls = ", ".join(_hostile(kind, evil, tenants) for kind in one["types"])
            await rows_of(connection, f"SELECT * FROM {one['name']}({calls})")
            bound = await connection.fetchval("SELECT current_setting('app.org_id')")
            assert bound == str(tenants.ours), one["signature"]
            assert await connection.fetchval("SELECT current_user") == "agentcy_app"


def _hostile(kind: str, evil: str, tenants: Tenants) -> str:
    quoted = "'" + evil.replace("'", "''") + "'"
    match kind:
        case "text":
            return quoted
        case "text[]":
            return f"ARRAY[{quoted}]"
        case "uuid":
            return f"'{tenants.theirs}'::uuid"
        case "uuid[]":
            return f"ARRAY['{tenants.theirs}'::uuid]"
        case _:
            return f"NULL::{kind}"


def _tells_nothing(error: asyncpg.PostgresError, one: Target, tenants: Tenants) -> None:
    """An error may repeat what was sent, and nothing that lies in the row."""
    assert isinstance(error, (*probes.REFUSED, asyncpg.UniqueViolationError)), (one.table, error)
    text = " ".join(str(part) for part in (error, error.detail, error.hint, error.context))
    assert str(tenants.theirs) not in text, (one.table, text)


def _insert(table: str, values: dict[str, Any]) -> str:
    return f"INSERT INTO {table} ({', '.join(values)}) VALUES ({_places(values)})"


def _places(values: dict[str, Any]) -> str:
    return ", ".join(f"${place}" for place in range(1, len(values) + 1))


def _other(value: Any) -> Any:
    """A value of the same kind that no row has."""
    if isinstance(value, str):
        return f"absent-{new_id().hex}"
    return 987_654 if isinstance(value, int) else new_id()
