"""Schema migrations: numbered SQL files, run forward only, each once.

Replicas that start together queue on one advisory lock; the first applies what is missing, the
others find nothing to do. A file that was applied and has changed since stops the start.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

import asyncpg
import structlog

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.stores.login import (
    INHERIT_PER_GRANT,
    ROLES,
    inheriting,
    login_check,
    stand_apart,
)

LOCK_KEY = 0x6167656E746379  # "agentcy"; any constant serves, as long as all agree
EXTENSIONS = ("vector", "pg_trgm")
INHERITING_UPTO = 23
"""The last migration that needs what ``agentcy_system`` owned until then."""

_log = structlog.get_logger(__name__)

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp())
"""


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return sha256(self.sql.encode()).hexdigest()


def shipped() -> list[Migration]:
    """The migrations that come with this version, in order."""
    found = [
        Migration(int(path.name[:4]), path.name[5:-4], path.read_text())
        for path in files("agentcy_ray.stores.migrations").iterdir()
        if path.name.endswith(".sql")
    ]
    return sorted(found, key=lambda migration: migration.version)


async def migrate(url: str) -> list[str]:
    """Bring the database at ``url`` to this version's schema; returns the names applied now.

    Raises:
        ConfigError: a role or an extension is missing and may not be created, or an applied
            file has changed; the message holds the SQL for an administrator.
    """
    connection = await asyncpg.connect(url, timeout=30)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        await _ensure_extensions(connection)
        await _ensure_roles(connection)
        await connection.execute(_TABLE)
        applied = {
            row["version"]: row["checksum"]
            for row in await connection.fetch("SELECT version, checksum FROM schema_migrations")
        }
        done: list[str] = []
        for migration in shipped():
            if migration.version in applied:
                _same(migration, applied[migration.version])
                continue
            await _apply(connection, migration)
            done.append(migration.name)
        login = login_check(await stand_apart(connection))
        if not login.ok:
            _log.warning("database_login", found=login.found, remedy=login.remedy)
        return done
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    apart = migration.version > INHERITING_UPTO
    try:
        async with connection.transaction(), nullcontext() if apart else inheriting(connection):
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(
            f"migration {migration.version:04}_{migration.name} may not be applied ({error}); let "
            "DATABASE_URL name the owner of the database, and as an administrator run: "
            + " ".join(f"GRANT {role} TO CURRENT_USER WITH ADMIN OPTION;" for role in ROLES)
        ) from error


def _same(migration: Migration, checksum: str) -> None:
    if migration.checksum != checksum:
        raise ConfigError(
            f"migration {migration.version:04}_{migration.name} was applied with another text; "
            "install the version that made this database, or restore the file"
        )


async def _ensure_extensions(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    present = {row[0] for row in await connection.fetch("SELECT extname FROM pg_extension")}
    for name in EXTENSIONS:
        if name in present:
            continue
        try:
            await connection.execute(f'CREATE EXTENSION IF NOT EXISTS "{name}"')
        except asyncpg.PostgresError as error:
            raise ConfigError(
                f"Postgres lacks extension {name!r} and it may not be created here ({error}); "
                f"as an administrator run: CREATE EXTENSION {name};",
                extension=name,
            ) from error


async def _ensure_roles(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Create the two runtime roles and let the login role take them.

    Roles belong to the whole server, and the advisory lock to one database: two databases that
    migrate together can collide here, which a short retry settles.
    """
    # Since PostgreSQL 16 the maker of a role is a member of it that may not take it.
    per_grant = connection.get_server_version().major >= INHERIT_PER_GRANT
    right = "SET" if per_grant else "MEMBER"
    how = " WITH INHERIT FALSE, SET TRUE" if per_grant else ""
    may_take = f"SELECT pg_has_role(current_user, $1, '{right}')"
    for attempt in range(10):
        try:
            for role in ROLES:
                if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
                    await connection.execute(f"CREATE ROLE {role} NOLOGIN NOBYPASSRLS")
                if not await connection.fetchval(may_take, role):
                    await connection.execute(f"GRANT {role} TO CURRENT_USER{how}")
                await connection.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
            return
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError):
            await asyncio.sleep(0.05 * (attempt + 1))
        except asyncpg.InternalServerError:  # "tuple concurrently updated"
            await asyncio.sleep(0.05 * (attempt + 1))
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigError(
                f"the database user may not create roles ({error}); as an administrator run: "
                + " ".join(f"CREATE ROLE {r} NOLOGIN; GRANT {r} TO CURRENT_USER;" for r in ROLES)
            ) from error
    raise ConfigError("the runtime roles could not be created; run `agentcy up` again")
