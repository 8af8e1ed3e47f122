"""The rows of a backfill as its worker reads and moves them; every write is under the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentcy_ray.core.errors import LeaseLostError, NotFoundError
from agentcy_ray.core.ids import encode
from agentcy_ray.core.states import EMBED_BACKFILL, ends, sources_of
from agentcy_ray.ingest.backfill.records import (
    Backfill,
    BackfillOptions,
    EmbedError,
    Engine,
    Phase,
    Status,
)
from agentcy_ray.jobs.store import JobStore
from agentcy_ray.retrieval.embedder import EmbedUsage

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.postgres import Database

    Connection = PoolConnectionProxy[asyncpg.Record]

COLUMNS = (
    "b.id, b.org_id, b.space_id, b.engine, b.status, b.phase, b.note, b.options, b.job_id,"
    " b.epoch, b.nodes, b.nodes_done, b.blocks, b.blocks_done, b.chunks, b.tokens, b.cost_usd,"
    " b.gpu_secs, b.chunks_per_s, b.tokens_per_s, b.eta_secs,"
    " (SELECT count(*) FROM embed_errors e WHERE e.backfill_id = b.id) AS errors,"
    " b.recall, b.error, b.created_by, b.started_at, b.ended_at, b.created_at"
)
_GET = f"SELECT {COLUMNS} FROM embed_backfills b WHERE b.id = $1"
# The share lock lets whoever moves it at this moment come first.
_SETTLED = f"{_GET} FOR SHARE OF b"
# A job that was replaced (held, and gone on with by another) must not take it from its successor.
_TAKE = f"""
UPDATE embed_backfills b SET epoch = epoch + 1, status = 'running', note = '', error = NULL,
  started_at = coalesce(started_at, clock_timestamp()), ended_at = NULL
WHERE id = $1 AND (status = 'running' OR status = ANY($2)) AND coalesce(job_id, $3) = $3
RETURNING {COLUMNS}
"""
_MOVE = f"""
UPDATE embed_backfills b SET status = $2::text, note = $4, error = $5, eta_secs = NULL,
  chunks_per_s = NULL, tokens_per_s = NULL,
  ended_at = CASE WHEN $2 = ANY($6) THEN clock_timestamp() END
WHERE id = $1 AND ($3::bigint IS NULL OR epoch = $3) AND status = ANY($7)
  AND ($8::uuid IS NULL OR coalesce(job_id, $8) = $8)
RETURNING {COLUMNS}
"""
_WAITING = "SELECT job_id FROM embedding_swaps WHERE to_space = $1 AND status = 'backfilling'"
_JOB = f"UPDATE embed_backfills b SET job_id = $2 WHERE id = $1 RETURNING {COLUMNS}"
_CHOOSE = "UPDATE embed_backfills SET engine = $2, options = $3 WHERE id = $1"
_PHASE = """
UPDATE embed_backfills SET phase = $3, note = $4
WHERE id = $1 AND epoch = $2 AND status = 'running' RETURNING true
"""
_NOTE = """
UPDATE embed_backfills SET note = $3, chunks_per_s = NULL, tokens_per_s = NULL, eta_secs = NULL
WHERE id = $1 AND epoch = $2 AND status = 'running'
"""
_STANDING = "SELECT epoch, status FROM embed_backfills WHERE id = $1"
_WAITS = """
UPDATE embed_backfills SET waits_for = $3
WHERE id = $1 AND epoch = $2 AND status = 'running' RETURNING true
"""
_WAITS_FOR = "SELECT waits_for FROM embed_backfills WHERE id = $1"
_PLANNED = """
UPDATE embed_backfills SET nodes = nodes + $3, blocks = blocks + $4
WHERE id = $1 AND epoch = $2 AND status = 'running' RETURNING true
"""
_DONE = """
UPDATE embed_backfills SET nodes_done = nodes_done + $3, blocks_done = blocks_done + 1,
  chunks = chunks + $4, tokens = tokens + $5, cost_usd = cost_usd + $6, gpu_secs = gpu_secs + $7,
  chunks_per_s = coalesce($8, chunks_per_s), tokens_per_s = coalesce($9, tokens_per_s),
  eta_secs = coalesce($10, eta_secs)
WHERE id = $1 AND epoch = $2 AND status = 'running' RETURNING true
"""
_SPENT = """
UPDATE embed_backfills SET tokens = tokens + $3, cost_usd = cost_usd + $4,
  gpu_secs = gpu_secs + $5, chunks = chunks + $6
WHERE id = $1 AND epoch = $2 AND status = 'running' RETURNING true
"""
_RATES = """
UPDATE embed_backfills SET chunks_per_s = $3, tokens_per_s = $4, eta_secs = $5
WHERE id = $1 AND epoch = $2 AND status = 'running' RETURNING true
"""
_RECALL = """
UPDATE embed_backfills SET recall = $3
WHERE id = $1 AND epoch = $2 AND status = 'running' RETURNING true
"""
_PUT_ERROR = """
INSERT INTO embed_errors AS e (org_id, backfill_id, chunk_key, node_id, source_id, code, message)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (backfill_id, chunk_key) DO UPDATE
  SET code = excluded.code, message = excluded.message, attempts = e.attempts + 1
"""
_ERRORS = """
SELECT chunk_key, node_id, code, message, attempts, created_at FROM embed_errors
WHERE backfill_id = $1 AND ($2::text IS NULL OR chunk_key > $2) ORDER BY chunk_key LIMIT $3
"""


@dataclass(frozen=True)
class RowError:
    """Why one text has no vector."""

    chunk_key: str
    node_id: str
    source_id: UUID
    code: str
    message: str


@dataclass(frozen=True)
class Rates:
    """How fast a backfill is now; None while unknown."""

    chunks_per_s: float | None = None
    tokens_per_s: float | None = None
    eta_secs: float | None = None


class BackfillRows:
    """Reads and moves backfills; ``epoch`` is the proof of the worker that carries one out."""

    def __init__(self, db: Database) -> None:
        self.db = db

    async def get(self, org_id: UUID, backfill_id: UUID) -> Backfill:
        """One backfill.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self.db.tenant(org_id) as connection:
            return found(await connection.fetchrow(_GET, backfill_id), backfill_id)

    async def settled(self, org_id: UUID, backfill_id: UUID) -> Backfill:
        """One backfill, after any move of it that has begun.

        Whoever notes first that it waits, and then finds it open here, is woken by its end.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self.db.tenant(org_id) as connection:
            return found(await connection.fetchrow(_SETTLED, backfill_id), backfill_id)

    async def take(self, org_id: UUID, backfill_id: UUID, job_id: UUID) -> Backfill | None:
        """Become the worker that carries a backfill out, by the job that was given it last.

        None when it is not to be gone on with, or another job carries it.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self.db.tenant(org_id) as connection:
            row = await connection.fetchrow(_TAKE, backfill_id, ["queued"], job_id)
            if row is not None:
                return Backfill(**dict(row))
            found(await connection.fetchrow(_GET, backfill_id), backfill_id)
            return None

    async def carried_by(self, connection: Connection, backfill_id: UUID, job_id: UUID) -> Backfill:
        """Note which job carries a backfill out."""
        return found(await connection.fetchrow(_JOB, backfill_id, job_id), backfill_id)

    async def move(
        self,
        connection: Connection,
        backfill_id: UUID,
        status: Status,
        *,
        epoch: int | None = None,
        job_id: UUID | None = None,
        note: str = "",
        error: dict[str, Any] | None = None,
    ) -> Backfill | None:
        """Move a backfill on; None when it is not in a state from which that is allowed.

        Its end wakes the swap that waits for it, in the same transaction.

        Args:
            connection: the transaction.
            backfill_id: which one.
            status: where it goes.
            epoch: of the worker; None for a move that somebody asks for.
            job_id: of the worker's job, where another one may carry the backfill meanwhile.
            note: what it waits for.
            error: ``{code, message, details}`` to keep.
        """
        ended = sorted({*ends(EMBED_BACKFILL), "failed"})
        row = await connection.fetchrow(
            _MOVE, backfill_id, status, epoch, note, error, ended,
            sources_of(EMBED_BACKFILL, status), job_id,
        )  # fmt: skip
        if row is None:
            return None
        moved = Backfill(**dict(row))
        if status in ended:
            for waiting in await connection.fetch(_WAITING, moved.space_id):
                await JobStore(self.db).wake(connection, waiting["job_id"])
        return moved

    async def choose(
        self,
        connection: Connection,
        backfill: Backfill,
        engine: Engine | None,
        options: BackfillOptions | None,
    ) -> None:
        """Change how a backfill is made: its engine, and the options that were set."""
        set_ = {} if options is None else {n: getattr(options, n) for n in options.model_fields_set}
        chosen = backfill.options.model_copy(update=set_).model_dump(mode="json")
        await connection.execute(_CHOOSE, backfill.id, engine or backfill.engine, chosen)

    async def standing(self, backfill: Backfill) -> tuple[int, str]:
        """Epoch and status as they are now."""
        async with self.db.tenant(backfill.org_id) as connection:
            row = await connection.fetchrow(_STANDING, backfill.id)
        if row is None:
            raise lost(backfill)
        return int(row["epoch"]), str(row["status"])

    async def phase(self, backfill: Backfill, phase: Phase, note: str = "") -> None:
        """Say what is being done, and what is waited for.

        Raises:
            LeaseLostError: another worker carries it out, or it was paused or cancelled.
        """
        async with self.db.tenant(backfill.org_id) as connection:
            await self._mine(connection, backfill, _PHASE, phase, note)

    async def noted(self, backfill: Backfill, note: str) -> None:
        """Say why nothing goes on, unless it is another worker's by now, or was held."""
        async with self.db.tenant(backfill.org_id) as connection:
            await connection.execute(_NOTE, backfill.id, backfill.epoch, note[:1000])

    async def wait_for(
        self, connection: Connection, backfill: Backfill, runs: Sequence[UUID]
    ) -> None:
        """Note the publishes that began before the space was written beside the active one."""
        await self._mine(connection, backfill, _WAITS, list(runs))

    async def waits_for(self, backfill: Backfill) -> list[UUID]:
        """The publishes of ``wait_for``."""
        async with self.db.tenant(backfill.org_id) as connection:
            return list(await connection.fetchval(_WAITS_FOR, backfill.id) or ())

    async def planned(
        self, connection: Connection, backfill: Backfill, nodes: int, blocks: int
    ) -> None:
        """Count a source in that was cut into blocks."""
        await self._mine(connection, backfill, _PLANNED, nodes, blocks)

    async def done(
        self,
        connection: Connection,
        backfill: Backfill,
        *,
        nodes: int,
        chunks: int,
        usage: EmbedUsage,
        rates: Rates,
    ) -> None:
        """Count a block in, in the transaction that writes it; take it as the last statement.

        Raises:
            LeaseLostError: a newer owner came, or a pause or cancel; nothing may be committed.
        """
        await self._mine(
            connection, backfill, _DONE, nodes, chunks, usage.tokens, usage.cost_usd,
            usage.gpu_secs, rates.chunks_per_s, rates.tokens_per_s, rates.eta_secs,
        )  # fmt: skip

    async def spent(
        self, connection: Connection, backfill: Backfill, usage: EmbedUsage, chunks: int = 0
    ) -> None:
        """Count what the model took, beside a block that is not done, and chunks of none."""
        await self._mine(
            connection, backfill, _SPENT, usage.tokens, usage.cost_usd, usage.gpu_secs, chunks
        )

    async def rates(self, backfill: Backfill, rates: Rates) -> None:
        """Keep how fast it is, where the blocks are written by others."""
        async with self.db.tenant(backfill.org_id) as connection:
            await self._mine(
                connection, backfill, _RATES, rates.chunks_per_s, rates.tokens_per_s, rates.eta_secs
            )

    async def recalled(self, backfill: Backfill, recall: dict[str, Any]) -> None:
        """Keep what the recall check found."""
        async with self.db.tenant(backfill.org_id) as connection:
            await self._mine(connection, backfill, _RECALL, recall)

    async def put_errors(
        self, connection: Connection, backfill: Backfill, errors: Sequence[RowError]
    ) -> None:
        """Record texts that could not be embedded; one more attempt where they are there."""
        await connection.executemany(
            _PUT_ERROR,
            [
                (backfill.org_id, backfill.id, e.chunk_key, e.node_id, e.source_id, e.code,
                 e.message[:1000])
                for e in errors
            ],
        )  # fmt: skip

    async def errors(
        self, org_id: UUID, backfill_id: UUID, *, after: str | None = None, limit: int = 100
    ) -> list[EmbedError]:
        """Texts that could not be embedded, by key."""
        async with self.db.tenant(org_id) as connection:
            rows = await connection.fetch(_ERRORS, backfill_id, after, limit)
        return [EmbedError(**dict(row)) for row in rows]

    async def _mine(
        self, connection: Connection, backfill: Backfill, sql: str, *values: Any
    ) -> None:
        if not await connection.fetchval(sql, backfill.id, backfill.epoch, *values):
            raise lost(backfill)


def found(row: asyncpg.Record | None, backfill_id: UUID) -> Backfill:
    """The backfill of a row.

    Raises:
        NotFoundError: there is no row.
    """
    if row is None:
        raise NotFoundError(f"no backfill {encode('bkf', backfill_id)}; list the backfills")
    return Backfill(**dict(row))


def lost(backfill: Backfill) -> LeaseLostError:
    """What a worker is told whose backfill is no longer its own."""
    return LeaseLostError(
        f"backfill {encode('bkf', backfill.id)} is no longer this worker's; it wrote nothing since",
        backfill_id=encode("bkf", backfill.id),
        epoch=backfill.epoch,
    )
