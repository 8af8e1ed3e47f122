"""What the login role of the database may do besides: it should have nothing of its own.

Requests take ``agentcy_app`` and background work ``agentcy_system`` for the length of a
transaction. A login that inherits from them, or that no policy binds, sees the rows of every tenant
in a statement that forgot its transaction; so inheritance is taken away where the server lets us,
and what is left is said by ``agentcy doctor`` and at every start.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from agentcy_ray.stores.versions import Check

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

ROLES = ("agentcy_app", "agentcy_system")
"""Of requests, and of work that belongs to none."""
INHERIT_PER_GRANT = 16
"""From this version on a grant says by itself whether it is inherited; before, the role does."""

_FACTS = """
SELECT r.rolname AS name, r.rolsuper AS superuser, r.rolbypassrls AS bypasses,
  ARRAY(SELECT o.rolname::text FROM pg_roles o
        WHERE o.rolname = ANY($1::text[]) AND pg_has_role(r.oid, o.oid, 'USAGE')
        ORDER BY 1) AS inherits
FROM pg_roles r WHERE r.rolname = current_user
"""


@dataclass(frozen=True, slots=True)
class Login:
    """The role that DATABASE_URL names."""

    name: str
    superuser: bool
    bypasses: bool
    """Whether it has BYPASSRLS."""
    inherits: tuple[str, ...]
    """Those of ``ROLES`` whose rights it has without taking them; a superuser has all."""
    per_grant: bool
    """Whether inheritance belongs to the grant (PostgreSQL 16 and later)."""


async def read_login(connection: Connection) -> Login:
    """What the connected role is."""
    row = await connection.fetchrow(_FACTS, list(ROLES))
    assert row is not None  # the current user is always a role
    major = connection.get_server_version().major
    return Login(
        name=row["name"],
        superuser=row["superuser"],
        bypasses=row["bypasses"],
        inherits=tuple(row["inherits"]),
        per_grant=major >= INHERIT_PER_GRANT,
    )


def login_check(login: Login) -> Check:
    """Advisory: a start is not refused, since the transaction's role binds every request."""
    needed = "no superuser, no BYPASSRLS, no inherited role"
    if login.superuser:
        how = "WITH ADMIN TRUE, INHERIT FALSE" if login.per_grant else "WITH ADMIN OPTION"
        return Check(
            "login", False, f"{login.name} is a superuser", needed,
            "give the product a user of its own: as an administrator run CREATE ROLE agentcy_owner"
            " LOGIN PASSWORD '…'; " + " ".join(f"GRANT {r} TO agentcy_owner {how};" for r in ROLES)
            + " make it the owner of the database and of what is in it, and name it in"
            " DATABASE_URL", advisory=True,
        )  # fmt: skip
    if login.bypasses:
        return Check(
            "login", False, f"{login.name} has BYPASSRLS", needed,
            f'as an administrator run: ALTER ROLE "{login.name}" NOBYPASSRLS;', advisory=True,
        )  # fmt: skip
    if login.inherits:
        return Check(
            "login", False, f"{login.name} inherits {', '.join(login.inherits)}", needed,
            "as an administrator run: " + " ".join(_remedies(login)), advisory=True,
        )  # fmt: skip
    return Check("login", True, login.name, needed)


async def stand_apart(connection: Connection) -> Login:
    """Take from the login role what it inherits of ``ROLES``, as far as it may; says what is left.

    It goes on taking the roles by ``SET ROLE``. A grant that somebody else made stays as it is, and
    so does the role of a server before 16 that may not change itself; then an administrator must.
    """
    login = await read_login(connection)
    if login.superuser or not login.inherits:
        return login
    await _try(connection, _remedies(login))
    return await read_login(connection)


@asynccontextmanager
async def inheriting(connection: Connection) -> AsyncGenerator[None]:
    """Inside a transaction: inherit from ``ROLES`` meanwhile, where the login may say so itself.

    For migrations of a time when the schema of views belonged to ``agentcy_system``. Nobody outside
    of the transaction sees it.
    """
    login = await read_login(connection)
    if login.superuser or set(login.inherits) == set(ROLES):
        yield
        return
    if login.per_grant:
        start = [f'GRANT {role} TO "{login.name}" WITH INHERIT TRUE' for role in ROLES]
    else:
        start = [f'ALTER ROLE "{login.name}" INHERIT']
    await _try(connection, start)
    yield
    await _try(connection, _remedies(await read_login(connection)))


async def _try(connection: Connection, statements: list[str]) -> bool:
    """Whether the login may run them; none was run where it may not."""
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True


def _remedies(login: Login) -> list[str]:
    if login.per_grant:
        return [f'GRANT {role} TO "{login.name}" WITH INHERIT FALSE;' for role in login.inherits]
    return [f'ALTER ROLE "{login.name}" NOINHERIT;']
