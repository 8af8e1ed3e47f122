"""Rows of long works: found, taken over by a worker, and moved on under its epoch.

One work is open in an organisation at a time. Each has a status that a machine of ``core.states``
governs, the job that carries it out, and an epoch: a worker that takes the work over raises it, and
whatever the worker before it still writes under the lower one meets no row. Moves are guarded
updates, so of two processes that race for one only one wins it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from agentcy_ray.core.errors import LeaseLostError, NotFoundError
from agentcy_ray.core.states import Machine, ends, sources_of

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.postgres import Database

    Connection = PoolConnectionProxy[asyncpg.Record]

R = TypeVar("R")

_JOB = "UPDATE {table} SET job_id = $2 WHERE id = $1 RETURNING {columns}"
_GET = "SELECT {columns} FROM {table} WHERE id = $1"
_LATEST = "SELECT {columns} FROM {table} ORDER BY id DESC LIMIT 1"
_LIST = """
SELECT {columns} FROM {table} WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2
"""
_TAKE = "UPDATE {table} SET epoch = epoch + 1 WHERE id = $1 RETURNING epoch AS taken, {columns}"
_MOVE = """
UPDATE {table} SET status = $3::text, error = $4,
  started_at = CASE WHEN $3 = 'backfilling' THEN coalesce(started_at, clock_timestamp())
    ELSE started_at END,
  cut_over_at = CASE WHEN $3 = '{cut_over}' THEN clock_timestamp() ELSE cut_over_at END,
  ended_at = CASE WHEN $3 = ANY($5) THEN clock_timestamp() END{also}
WHERE id = $1 AND ($2::bigint IS NULL OR epoch = $2) AND status = ANY($6)
RETURNING {columns}
"""


@dataclass(frozen=True)
class Shape(Generic[R]):
    """Which rows they are."""

    table: str
    columns: str
    """Those of the record; the table has ``epoch`` besides."""
    record: Callable[..., R]
    """Makes one of the columns, given by name."""
    machine: Machine
    cut_over: str
    """The status whose time ``cut_over_at`` is."""
    absent: Callable[[UUID], NotFoundError]
    lost: Callable[[UUID], LeaseLostError]
    """What a worker is told whose epoch is over."""
    also: str = ""
    """What a move sets besides; its parameters begin with ``$7``."""


class FencedRows(Generic[R]):
    """Reads and moves the rows of one table; ``epoch`` is the proof of who carries a work out."""

    def __init__(self, db: Database, shape: Shape[R]) -> None:
        self.db = db
        self._shape = shape

    async def carried_by(self, connection: Connection, row_id: UUID, job_id: UUID) -> R:
        """Note which job carries a work out."""
        return self._found(await connection.fetchrow(self._sql(_JOB), row_id, job_id), row_id)

    async def get(self, org_id: UUID, row_id: UUID) -> R:
        """One of them.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self.db.tenant(org_id) as connection:
            return self._found(await connection.fetchrow(self._sql(_GET), row_id), row_id)

    async def latest(self, org_id: UUID) -> R | None:
        """The newest of an organisation."""
        async with self.db.tenant(org_id) as connection:
            row = await connection.fetchrow(self._sql(_LATEST))
        return None if row is None else self._of(row)

    async def list(self, org_id: UUID, *, limit: int = 50, before: UUID | None = None) -> list[R]:
        """Those of an organisation, newest first."""
        async with self.db.tenant(org_id) as connection:
            rows = await connection.fetch(self._sql(_LIST), before, limit)
        return [self._of(row) for row in rows]

    async def take(self, org_id: UUID, row_id: UUID) -> tuple[R, int]:
        """Become the worker that carries a work out, with the epoch that fences it.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self.db.tenant(org_id) as connection:
            row = await connection.fetchrow(self._sql(_TAKE), row_id)
        if row is None:
            raise self._shape.absent(row_id)
        values = dict(row)
        epoch = int(values.pop("taken"))
        return self._shape.record(**values), epoch

    async def _move(
        self,
        connection: Connection,
        row_id: UUID,
        status: str,
        epoch: int | None,
        error: dict[str, Any] | None,
        *also: Any,
    ) -> R | None:
        """Move a work on; None when its status does not allow it, or the epoch is over."""
        machine = self._shape.machine
        row = await connection.fetchrow(
            self._sql(_MOVE), row_id, epoch, status, error,
            sorted({*ends(machine), "failed"}), sources_of(machine, status), *also,
        )  # fmt: skip
        return None if row is None else self._of(row)

    async def _mine(
        self, connection: Connection, sql: str, row_id: UUID, epoch: int, *values: Any
    ) -> asyncpg.Record:
        """Run an update of ``id = $1 AND epoch = $2`` that returns something.

        Raises:
            LeaseLostError: another worker carries the work out, or it was moved on.
        """
        row = await connection.fetchrow(sql, row_id, epoch, *values)
        if row is None:
            raise self._shape.lost(row_id)
        return row

    def _sql(self, text: str) -> str:
        shape = self._shape
        return text.format(
            table=shape.table, columns=shape.columns, cut_over=shape.cut_over, also=shape.also
        )

    def _of(self, row: asyncpg.Record) -> R:
        return self._shape.record(**dict(row))

    def _found(self, row: asyncpg.Record | None, row_id: UUID) -> R:
        if row is None:
            raise self._shape.absent(row_id)
        return self._of(row)
