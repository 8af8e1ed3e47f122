"""Without an organisation nothing is answered, and the audit log takes entries only."""

from __future__ import annotations

import asyncpg
import pytest

from tests.tenancy.conftest import Tenants

UNBOUND = (asyncpg.UndefinedObjectError, asyncpg.InvalidTextRepresentationError)
"""Of a connection that never had an org, and of one whose org went with its transaction."""


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


async def test_nobody_can_change_or_remove_an_audit_entry(tenants: Tenants) -> None:
    for org in (tenants.ours, None):
        for statement in ("UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log"):
            scope = tenants.db.system() if org is None else tenants.db.tenant(org)
            async with scope as connection:
                assert await _outcome(connection, statement) == "denied"


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
