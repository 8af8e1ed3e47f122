"""The rows of ``embedding_swaps``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentcy_ray.core.errors import ConflictError, LeaseLostError, NotFoundError
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.states import EMBEDDING_SWAP, sources_of
from agentcy_ray.ingest.swap.records import Gate, Status, Swap, SwapOptions
from agentcy_ray.stores.fenced_rows import FencedRows, Shape

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.postgres import Database

    Connection = PoolConnectionProxy[asyncpg.Record]

_COLUMNS = (
    "id, org_id, model, from_space, to_space, status, job_id, options, gate, reason, forced_by,"
    " error, created_by, started_at, cut_over_at, ended_at, created_at"
)
_INSERT = f"""
INSERT INTO embedding_swaps (id, org_id, model, options, created_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (org_id) WHERE status IN ('planned', 'backfilling', 'checking', 'ready') DO NOTHING
RETURNING {_COLUMNS}
"""
_SPACES = f"""
UPDATE embedding_swaps SET from_space = $3, to_space = $4
WHERE id = $1 AND epoch = $2 RETURNING {_COLUMNS}
"""
_GATE = "UPDATE embedding_swaps SET gate = $3 WHERE id = $1 AND epoch = $2 RETURNING true"
_OPTIONS = f"""
UPDATE embedding_swaps SET options = options || $2 WHERE id = $1 RETURNING {_COLUMNS}
"""
_OPEN_TO = f"""
SELECT {_COLUMNS} FROM embedding_swaps
WHERE to_space = $1 AND status IN ('planned', 'backfilling', 'checking', 'ready')
"""
_LEFT = "UPDATE embedding_swaps SET from_space = $2 WHERE id = $1"
_OVER = """
UPDATE embedding_swaps SET status = 'done', ended_at = clock_timestamp()
WHERE from_space = $1 AND status = ANY($2)
"""
_FORCED = "UPDATE embedding_swaps SET forced_by = $2 WHERE id = $1"
# A return to a former space ends the swap that left it and the one that brought what answered.
_RETURNED = """
UPDATE embedding_swaps SET status = 'rolled_back', ended_at = clock_timestamp()
WHERE (from_space = $1 OR to_space = $2) AND status = ANY($3) RETURNING id
"""


def lost(swap_id: UUID) -> LeaseLostError:
    """Why a worker stops in the middle of a swap."""
    return LeaseLostError(
        f"swap {encode('swp', swap_id)} was moved on by somebody else; nothing more is written by "
        "this worker",
        swap_id=encode("swp", swap_id),
    )


def under_way() -> ConflictError:
    """Why no second swap is begun."""
    return ConflictError(
        "a change of this organisation's embedding model is under way; "
        "`agentcy embed status` shows it, `agentcy embed cancel` ends it",
        code="state_conflict",
    )


def _absent(swap_id: UUID) -> NotFoundError:
    return NotFoundError(
        f"no swap {encode('swp', swap_id)}; `agentcy embed status` shows the newest one"
    )


_SHAPE = Shape(
    "embedding_swaps", _COLUMNS, Swap, EMBEDDING_SWAP, "cut_over", _absent, lost, ", reason = $7"
)


class Swaps(FencedRows[Swap]):
    """Reads and moves swaps."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, _SHAPE)

    async def insert(
        self,
        connection: Connection,
        org_id: UUID,
        model: str,
        options: SwapOptions,
        user_id: UUID | None = None,
    ) -> Swap:
        """Plan a swap inside the caller's transaction.

        Raises:
            ConflictError: one is open already.
        """
        chosen = options.model_dump(mode="json")
        row = await connection.fetchrow(_INSERT, new_id(), org_id, model, chosen, user_id)
        if row is None:
            raise under_way()
        return Swap(**dict(row))

    async def move(
        self,
        connection: Connection,
        swap_id: UUID,
        status: Status,
        *,
        epoch: int | None = None,
        error: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> Swap | None:
        """Move a swap on; None when it is not in a state from which that is allowed.

        Args:
            connection: the transaction.
            swap_id: which one.
            status: where it goes.
            epoch: of the worker; None for a move that somebody asks for.
            error: ``{code, message, details}`` to keep.
            reason: why it waits in ``ready``.
        """
        return await self._move(connection, swap_id, status, epoch, error, reason)

    async def between(
        self, swap: Swap, epoch: int, from_space: UUID | None, to_space: UUID
    ) -> Swap:
        """Note from which space to which a swap goes.

        Raises:
            LeaseLostError: another worker carries the swap out.
        """
        async with self.db.tenant(swap.org_id) as connection:
            row = await self._mine(connection, _SPACES, swap.id, epoch, from_space, to_space)
        return self._of(row)

    async def checked(self, swap: Swap, epoch: int, gate: Gate) -> None:
        """Keep the figures of a check.

        Raises:
            LeaseLostError: another worker carries the swap out.
        """
        async with self.db.tenant(swap.org_id) as connection:
            await self._mine(connection, _GATE, swap.id, epoch, gate.model_dump(mode="json"))

    async def choose(self, connection: Connection, swap_id: UUID, options: dict[str, Any]) -> Swap:
        """Change some options of a swap that waits."""
        row = await connection.fetchrow(_OPTIONS, swap_id, options)
        return self._found(row, swap_id)

    async def open_to(self, connection: Connection, space_id: UUID) -> Swap | None:
        """The open swap that goes to a space."""
        row = await connection.fetchrow(_OPEN_TO, space_id)
        return None if row is None else Swap(**dict(row))

    async def forced(self, connection: Connection, swap_id: UUID, user_id: UUID | None) -> None:
        """Note who let a swap through that the gate had kept."""
        await connection.execute(_FORCED, swap_id, user_id)

    async def left(self, connection: Connection, swap_id: UUID, space_id: UUID) -> None:
        """Note which space answered until a swap was cut over: the one to go back to."""
        await connection.execute(_LEFT, swap_id, space_id)

    async def over(self, connection: Connection, space_id: UUID) -> None:
        """End the swaps that left a space to which nobody can go back any more."""
        await connection.execute(_OVER, space_id, sources_of(EMBEDDING_SWAP, "done"))

    async def returned(
        self, connection: Connection, space_id: UUID, former_id: UUID | None
    ) -> None:
        """Note that a former space answers again, in the transaction that makes it so."""
        sources = sources_of(EMBEDDING_SWAP, "rolled_back")
        await connection.execute(_RETURNED, space_id, former_id, sources)
