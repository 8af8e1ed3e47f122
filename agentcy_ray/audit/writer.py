"""Appending to the chain: one writer per organisation and process, many entries a commit.

An entry is written at once when nothing is in flight for its organisation, and else joins the next
batch, so latency is one commit and throughput is many entries a commit. Between processes the
organisation's row is the lock; head and entries change in one transaction, so a rollback leaves no
gap in ``seq``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from agentcy_ray.audit.entry import AuditEntry, chain_hash, plain
from agentcy_ray.core.errors import AgentcyError, NotFoundError
from agentcy_ray.stores.postgres import Database

BATCH = 256

# NO KEY: rows of other tables that reference the organisation may still be inserted meanwhile.
_HEAD = """
SELECT audit_head_seq, audit_head_hash FROM organizations WHERE id = $1 FOR NO KEY UPDATE
"""
_APPEND = """
WITH entries AS (
  INSERT INTO audit_log (org_id, seq, id, ts, user_id, api_key_id, category, action, decision,
                         resource, policy_id, rule, reasons, input, context, prev_hash, hash)
  SELECT org_id, seq, id, ts, user_id, api_key_id, category, action, decision,
         resource, policy_id, rule, reasons, input, context, prev_hash, hash
  FROM jsonb_to_recordset($2::jsonb) AS e (
    org_id uuid, seq bigint, id uuid, ts timestamptz, user_id uuid, api_key_id uuid,
    category text, action text, decision text, resource jsonb, policy_id text, rule text,
    reasons text[], input jsonb, context jsonb, prev_hash bytea, hash bytea)
)
UPDATE organizations SET audit_head_seq = $3, audit_head_hash = $4 WHERE id = $1
"""


class ChainWriter:
    """Group commit for the chains of all organisations of one process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: dict[UUID, list[tuple[AuditEntry, asyncio.Future[None]]]] = {}
        self._writers: dict[UUID, asyncio.Task[None]] = {}

    async def append(self, entry: AuditEntry) -> None:
        """Return once ``entry`` is durable. A cancelled caller's entry is still written.

        Raises:
            StoreUnavailableError, StorageFullError: it is not known to be durable.
            NotFoundError: there is no such organisation.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(entry.org_id, []).append((plain(entry), done))
        if entry.org_id not in self._writers:
            task = asyncio.create_task(self._drain(entry.org_id))
            self._writers[entry.org_id] = task
        await asyncio.shield(done)

    async def close(self) -> None:
        """Wait until everything handed in is written or has failed."""
        await asyncio.gather(*self._writers.values(), return_exceptions=True)

    async def _drain(self, org_id: UUID) -> None:
        try:
            while waiting := self._waiting.get(org_id):
                batch, self._waiting[org_id] = waiting[:BATCH], waiting[BATCH:]
                await self._settle(org_id, batch)
        finally:
            del self._writers[org_id]
            for _, done in self._waiting.pop(org_id, []):
                done.cancel()

    async def _settle(
        self, org_id: UUID, batch: Sequence[tuple[AuditEntry, asyncio.Future[None]]]
    ) -> None:
        try:
            await self._write(org_id, [entry for entry, _ in batch])
        except AgentcyError as error:
            for _, done in batch:
                _fail(done, error)
        except Exception as error:  # noqa: BLE001  (the waiting caller gets it)
            if len(batch) == 1:
                _fail(batch[0][1], error)
            else:
                for one in batch:  # so that an entry which cannot be stored fails alone
                    await self._settle(org_id, [one])
        except BaseException:
            for _, done in batch:
                done.cancel()
            raise
        else:
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    async def _write(self, org_id: UUID, entries: Sequence[AuditEntry]) -> None:
        async with self._db.tenant(org_id) as connection:
            head = await connection.fetchrow(_HEAD, org_id)
            if head is None:
                raise NotFoundError(f"no organisation {org_id}")
            seq, last = head["audit_head_seq"], bytes(head["audit_head_hash"])
            rows: list[dict[str, Any]] = []
            for entry in entries:
                seq += 1
                here = chain_hash(entry, seq, last)
                rows.append(_row(entry, seq, last, here))
                last = here
            await connection.execute(_APPEND, org_id, rows, seq, last)


def _row(entry: AuditEntry, seq: int, prev_hash: bytes, here: bytes) -> dict[str, Any]:
    fields = entry.model_dump()  # not in JSON mode, where ids are public texts
    for name in ("id", "org_id", "user_id", "api_key_id"):
        fields[name] = None if fields[name] is None else str(fields[name])
    return {
        **fields,
        "seq": seq,
        "prev_hash": f"\\x{prev_hash.hex()}",
        "hash": f"\\x{here.hex()}",
    }


def _fail(done: asyncio.Future[None], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # a caller that was cancelled never looks
