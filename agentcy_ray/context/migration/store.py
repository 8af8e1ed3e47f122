"""The rows of ``engine_migrations``, and the one word that says which engine answers.

Writes of the graph hold a lock of their organisation in common with each other while they read the
route and write; beginning to write to both engines, and cutting over, take it alone. So a write
goes by the route that is in force while it happens, and none falls between two.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from agentcy_ray.context.migration.records import (
    BOTH,
    EngineName,
    GroupDifference,
    Migration,
    Route,
    Status,
)
from agentcy_ray.core.errors import ConflictError, LeaseLostError, NotFoundError
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.states import ENGINE_MIGRATION
from agentcy_ray.stores.fenced_rows import FencedRows, Shape

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.postgres import Database

WRITE_SECS, ALONE_SECS = 900, 3600
"""A transaction that holds the lock, in common or alone, and says nothing for so long is ended by
the server: its process is gone, and the network did not say so."""

_COLUMNS = (
    "id, org_id, status, job_id, cursor, counts, checksums, differences, error, created_by,"
    " started_at, cut_over_at, ended_at, pruned_at, created_at"
)
_KEY = "hashtextextended('agentcy.engine.route.' || $1::uuid, 0)"
_BOUND = "set_config('idle_in_transaction_session_timeout', $2, true)"
_TOGETHER = f"SELECT {_BOUND}, pg_advisory_xact_lock_shared({_KEY})"
_ALONE = f"SELECT {_BOUND}, pg_advisory_xact_lock({_KEY})"
_ROUTE = f"""
SELECT o.context_engine AS reads, EXISTS (SELECT 1 FROM engine_migrations m
  WHERE m.org_id = o.id AND m.status IN {BOTH}) AS both
FROM organizations o WHERE o.id = $1
"""
_INSERT = f"""
INSERT INTO engine_migrations (id, org_id, created_by) VALUES ($1, $2, $3)
ON CONFLICT (org_id) WHERE status IN ('planned', 'backfilling', 'verifying', 'cutover') DO NOTHING
RETURNING {_COLUMNS}
"""
_ENGINE = """
UPDATE organizations SET context_engine = 'advanced'
WHERE id = $1 AND context_engine = 'basic' RETURNING true
"""
_SAVE = """
UPDATE engine_migrations SET cursor = coalesce($3, cursor), counts = counts || $4
WHERE id = $1 AND epoch = $2 AND status = 'backfilling' RETURNING true
"""
_RESULT = """
UPDATE engine_migrations SET checksums = $3, differences = $4 WHERE id = $1 AND epoch = $2
RETURNING true
"""
_PRUNED = """
UPDATE engine_migrations SET pruned_at = clock_timestamp() WHERE id = $1 AND pruned_at IS NULL
"""


@asynccontextmanager
async def together(
    db: Database, org_id: UUID
) -> AsyncGenerator[PoolConnectionProxy[asyncpg.Record]]:
    """A transaction during which nobody changes where the organisation's writes go."""
    async with db.tenant(org_id) as connection:
        await connection.execute(_TOGETHER, org_id, str(WRITE_SECS * 1000))
        yield connection


@asynccontextmanager
async def alone(db: Database, org_id: UUID) -> AsyncGenerator[PoolConnectionProxy[asyncpg.Record]]:
    """A transaction during which nobody writes into the organisation's graph."""
    async with db.tenant(org_id) as connection:
        await connection.execute(_ALONE, org_id, str(ALONE_SECS * 1000))
        yield connection


async def read_route(
    connection: PoolConnectionProxy[asyncpg.Record], org_id: UUID, default: EngineName
) -> Route:
    """Where reads and writes of an organisation go; ``default`` for one that is not known."""
    row = await connection.fetchrow(_ROUTE, org_id)
    return Route(reads=default) if row is None else Route(**dict(row))


def _absent(migration_id: UUID) -> NotFoundError:
    return NotFoundError(f"no migration {encode('mig', migration_id)}; list the migrations")


def _lost(migration_id: UUID) -> LeaseLostError:
    return LeaseLostError(
        f"migration {encode('mig', migration_id)} was moved on by somebody else; nothing more is "
        "written by this worker",
        migration_id=encode("mig", migration_id),
    )


_SHAPE = Shape(
    "engine_migrations", _COLUMNS, Migration, ENGINE_MIGRATION, "cutover", _absent, _lost,
    ", cursor = CASE WHEN $3 = 'backfilling' THEN '{}' ELSE cursor END",
)  # fmt: skip


class Migrations(FencedRows[Migration]):
    """Reads and moves rows of ``engine_migrations``."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, _SHAPE)

    async def insert(
        self,
        connection: PoolConnectionProxy[asyncpg.Record],
        org_id: UUID,
        user_id: UUID | None = None,
    ) -> Migration:
        """Plan a migration inside the caller's transaction.

        Raises:
            ConflictError: one is open already.
        """
        row = await connection.fetchrow(_INSERT, new_id(), org_id, user_id)
        if row is None:
            raise ConflictError(
                "a migration of this organisation is under way; "
                "`agentcy engine status` shows it, `agentcy engine cancel` ends it",
                code="state_conflict",
            )
        return Migration(**dict(row))

    async def move(
        self,
        connection: PoolConnectionProxy[asyncpg.Record],
        migration_id: UUID,
        status: Status,
        *,
        epoch: int | None = None,
        error: dict[str, Any] | None = None,
    ) -> Migration | None:
        """Move a migration on; None when it is not in a state from which that is allowed.

        Args:
            connection: the transaction; ``alone`` where writes change their way by the move.
            migration_id: which one.
            status: where it goes.
            epoch: of the worker; None for a move that somebody asks for.
            error: ``{code, message, details}`` to keep.
        """
        return await self._move(connection, migration_id, status, epoch, error)

    async def cut_over(
        self, connection: PoolConnectionProxy[asyncpg.Record], migration: Migration, epoch: int
    ) -> Migration:
        """From now on the Advanced engine answers the organisation; call it under ``alone``.

        Raises:
            LeaseLostError: the migration was cancelled, or another worker carries it out.
        """
        moved = await self.move(connection, migration.id, "cutover", epoch=epoch)
        if moved is None or not await connection.fetchval(_ENGINE, migration.org_id):
            raise _lost(migration.id)
        return moved

    async def save(
        self,
        migration: Migration,
        epoch: int,
        cursor: dict[str, Any] | None,
        counts: dict[str, Any],
    ) -> None:
        """Record up to where entities lie in the new engine.

        Raises:
            LeaseLostError: another worker carries the migration out, or it was cancelled.
        """
        async with self.db.tenant(migration.org_id) as connection:
            await self._mine(connection, _SAVE, migration.id, epoch, cursor, counts)

    async def result(
        self,
        connection: PoolConnectionProxy[asyncpg.Record],
        migration: Migration,
        epoch: int,
        checksums: dict[str, Any],
        differences: Sequence[GroupDifference],
    ) -> None:
        """Record what a comparison of the engines found.

        Raises:
            LeaseLostError: another worker carries the migration out.
        """
        found = [each.model_dump() for each in differences]
        await self._mine(connection, _RESULT, migration.id, epoch, checksums, found)

    async def pruned(self, org_id: UUID, migration_id: UUID) -> None:
        """Note that the organisation's rows are gone from Basic."""
        async with self.db.tenant(org_id) as connection:
            await connection.execute(_PRUNED, migration_id)


def one_way(migration: Migration | None) -> ConflictError:
    """Why there is no way back from the Advanced engine."""
    since = "" if migration is None or migration.cut_over_at is None else (
        f" since {migration.cut_over_at:%Y-%m-%d %H:%M} UTC"
    )  # fmt: skip
    return ConflictError(
        f"this organisation is on the Advanced engine{since}; what was published there is not on "
        "Basic, whose rows are deleted after a week, so there is no way back",
        code="migration_one_way",
        engine="advanced",
        reason="writes after the cut-over go to the Advanced engine alone",
    )
