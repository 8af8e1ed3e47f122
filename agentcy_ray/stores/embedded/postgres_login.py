"""The login of the embedded PostgreSQL: a role that owns the tables and may do nothing else.

The server's first user is a superuser, whom no policy binds. It makes the database and its
extensions, and nobody works as it afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentcy_ray.stores.login import ROLES

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

LOGIN = "agentcy_owner"

_EXISTS = "SELECT 1 FROM pg_roles WHERE rolname = $1"
_QUOTED = "SELECT quote_literal($1::text)"
# Of a folder that an earlier version made: there the superuser owned everything. What belongs to an
# extension stays with it, and a sequence of a column goes with its table.
_OF_SUPERUSER = """
WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'live', 'vectors')),
me AS (SELECT oid FROM pg_roles WHERE rolname = current_user)
SELECT format('ALTER SCHEMA %I OWNER TO ', n.nspname) AS start FROM pg_namespace n, me
WHERE n.nspname IN ('live', 'vectors') AND n.nspowner = me.oid
UNION ALL
SELECT format('ALTER %s %s OWNER TO ', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
              c.oid::regclass)
FROM pg_class c, me
WHERE c.relnamespace IN (SELECT oid FROM ours) AND c.relowner = me.oid
  AND c.relkind IN ('r', 'p', 'v')
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT format('ALTER ROUTINE %s OWNER TO ', p.oid::regprocedure) FROM pg_proc p, me
WHERE p.pronamespace IN (SELECT oid FROM ours) AND p.proowner = me.oid
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                  AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT format('ALTER POLICY %I ON %s TO ', p.polname, p.polrelid::regclass) FROM pg_policy p, me
WHERE p.polroles = ARRAY[me.oid]
"""


async def give_login(connection: Connection, database: str, password: str) -> None:
    """Make ``LOGIN`` the owner of the connected database; may be repeated.

    Args:
        connection: of the superuser, in ``database``.
        database: a name that needs no quoting.
        password: of ``LOGIN`` from now on.
    """
    async with connection.transaction():
        for role in ROLES:
            if not await connection.fetchval(_EXISTS, role):
                await connection.execute(f"CREATE ROLE {role} NOLOGIN NOBYPASSRLS")
        verb = "ALTER" if await connection.fetchval(_EXISTS, LOGIN) else "CREATE"
        quoted = await connection.fetchval(_QUOTED, password)
        await connection.execute(
            f"{verb} ROLE {LOGIN} WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION"
            f" NOBYPASSRLS PASSWORD {quoted}"
        )
        for role in ROLES:
            # With the right to pass them on: what it inherits while it migrates, it grants itself.
            await connection.execute(
                f"GRANT {role} TO {LOGIN} WITH ADMIN TRUE, INHERIT FALSE, SET TRUE"
            )
        await connection.execute(f"ALTER DATABASE {database} OWNER TO {LOGIN}")
        for row in await connection.fetch(_OF_SUPERUSER):
            await connection.execute(row["start"] + LOGIN)


def superuser_url(data: Path, user: str, database_url: str) -> str:
    """The same database as the superuser, for upkeep by hand.

    Args:
        data: the server's folder in the state folder, where its passwords lie.
        user: the superuser's name.
        database_url: as `Endpoints` has it.
    """
    password = (data / "password").read_text()
    scheme, _, rest = database_url.partition("://")
    return f"{scheme}://{user}:{password}@{rest.partition('@')[2]}"
