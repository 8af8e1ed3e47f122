"""Rows of tool calls, many a commit: intents, receipts, and calls that are kept when they are over.

A write goes at once when nothing is in flight for its organisation, and else joins the next
transaction with whatever came meanwhile; each returns when its own row is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

BATCH = 256
_INSERT = """
INSERT INTO tool_calls (id, org_id, run_id, conversation_id, position, source_id, connector, tool,
  args, args_sealed, args_sha256, effect, status, principal, context, idempotency_key, intent_at,
  receipt, result, result_artifact_id, usage_ms, error, audit_id)
SELECT id, $1, run_id, conversation_id, position, source_id, connector, tool,
  args, args_sealed, args_sha256, effect, status, principal, context, idempotency_key,
  CASE WHEN status = 'dispatched' THEN clock_timestamp() END,
  receipt, result, result_artifact_id, usage_ms, error, audit_id
FROM jsonb_to_recordset($2::jsonb) AS c (
  id uuid, run_id uuid, conversation_id uuid, position int, source_id uuid, connector text,
  tool text, args jsonb, args_sealed bytea, args_sha256 text, effect text, status text,
  principal jsonb, context jsonb, idempotency_key text, receipt jsonb, result jsonb,
  result_artifact_id uuid, usage_ms double precision, error jsonb, audit_id uuid)
ON CONFLICT (idempotency_key) DO NOTHING RETURNING id
"""
_END = """
UPDATE tool_calls t SET status = e.status, receipt = e.receipt, result = e.result,
  result_artifact_id = e.result_artifact_id, usage_ms = e.usage_ms, error = e.error,
  audit_id = e.audit_id, args_sealed = NULL
FROM jsonb_to_recordset($1::jsonb) AS e (
  id uuid, status text, of text[], receipt jsonb, result jsonb, result_artifact_id uuid,
  usage_ms double precision, error jsonb, audit_id uuid)
WHERE t.id = e.id AND t.status = ANY (e.of) RETURNING t.id
"""


@dataclass(slots=True)
class _Write:
    id: UUID
    row: dict[str, Any]
    ends: bool
    """Whether it is the end of a row that is there, or else a new row."""
    done: asyncio.Future[bool]


class CallWriter:
    """Group commit for the calls of all organisations of one process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: dict[UUID, list[_Write]] = {}
        self._writers: dict[UUID, asyncio.Task[None]] = {}

    async def insert(self, org_id: UUID, call_id: UUID, row: dict[str, Any]) -> bool:
        """Write a row; False when one with this idempotency key exists.

        Raises:
            StoreUnavailableError, StorageFullError: it is not known to be durable.
        """
        return await self._write(org_id, call_id, row, ends=False)

    async def end(self, org_id: UUID, call_id: UUID, row: dict[str, Any]) -> bool:
        """Write the end of a call; False when its state is none of ``row["of"]``.

        Raises:
            StoreUnavailableError, StorageFullError: it is not known to be durable.
        """
        return await self._write(org_id, call_id, row, ends=True)

    async def _write(self, org_id: UUID, call_id: UUID, row: dict[str, Any], *, ends: bool) -> bool:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        write = _Write(call_id, {**row, "id": str(call_id)}, ends, done)
        self._waiting.setdefault(org_id, []).append(write)
        if org_id not in self._writers:
            task = asyncio.create_task(self._drain(org_id), name="call-writer")
            self._writers[org_id] = task
        return await done

    async def _drain(self, org_id: UUID) -> None:
        try:
            await asyncio.sleep(0)  # whoever else is ready to write now goes along
            while waiting := self._waiting.pop(org_id, None):
                batch, rest = _apart(waiting)
                if rest:
                    self._waiting[org_id] = rest
                await self._settle(org_id, batch)
        finally:
            del self._writers[org_id]
            for write in self._waiting.pop(org_id, []):
                write.done.cancel()

    async def _settle(self, org_id: UUID, batch: Sequence[_Write]) -> None:
        try:
            async with self._db.tenant(org_id) as connection:
                written = await _put(connection, org_id, batch)
        except StoreUnavailableError as error:
            _fail(batch, error)
            return
        except Exception as error:  # noqa: BLE001 - the waiting caller gets it
            if len(batch) == 1:
                _fail(batch, error)
                return
            for one in batch:  # so that a row which cannot be kept fails alone
                await self._settle(org_id, [one])
            return
        for write in batch:
            if not write.done.done():  # its caller was cancelled; what was written stands
                write.done.set_result((write.id, write.ends) in written)


def _apart(waiting: Sequence[_Write]) -> tuple[list[_Write], list[_Write]]:
    """The next batch, and what waits for another one: a row is moved once in a transaction."""
    batch: list[_Write] = []
    rest: list[_Write] = []
    seen: set[UUID] = set()
    for write in waiting:
        if write.id in seen or len(batch) == BATCH:
            rest.append(write)
        else:
            seen.add(write.id)
            batch.append(write)
    return batch, rest


async def _put(
    connection: Connection, org_id: UUID, batch: Sequence[_Write]
) -> set[tuple[UUID, bool]]:
    """Write a batch; answers which of it took effect, as (id, whether it is an end)."""
    new = [write.row for write in batch if not write.ends]
    ended = [write.row for write in batch if write.ends]
    rows = await connection.fetch(_INSERT, org_id, new) if new else []
    written = {(row["id"], False) for row in rows}
    rows = await connection.fetch(_END, ended) if ended else []
    return written | {(row["id"], True) for row in rows}


def _fail(batch: Sequence[_Write], error: Exception) -> None:
    for write in batch:
        if not write.done.done():
            write.done.set_exception(error)
