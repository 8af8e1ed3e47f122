"""Rows of tool calls, many a commit: intents, receipts, and calls that are kept when they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

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


@dataclass(frozen=True, slots=True)
class CallWrite:
    """A row, or the end of one that is there."""

    id: UUID
    row: dict[str, Any]
    """Columns as JSON values; for an end, ``of`` holds the states that it may follow."""
    ends: bool


async def put(
    connection: Connection, org_id: UUID, batch: Sequence[CallWrite]
) -> list[bool | Exception]:
    """Write a batch; answers of each whether it took effect.

    A row does not when there is one with its idempotency key, an end does not when its call is in
    none of the states that it may follow.
    """
    new = [{**write.row, "id": str(write.id)} for write in batch if not write.ends]
    ended = [{**write.row, "id": str(write.id)} for write in batch if write.ends]
    rows = await connection.fetch(_INSERT, org_id, new) if new else []
    written = {(row["id"], False) for row in rows}
    rows = await connection.fetch(_END, ended) if ended else []
    written |= {(row["id"], True) for row in rows}
    return [(write.id, write.ends) in written for write in batch]
