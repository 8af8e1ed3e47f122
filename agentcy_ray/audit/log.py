"""The audit log: append, list, verify, export and tail."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict

from agentcy_ray.audit.canonical import chain_hash
from agentcy_ray.audit.entry import GENESIS, AuditDecision, AuditEntry, AuditRecord, Category
from agentcy_ray.audit.writer import ChainWriter
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import RunId, UserId, encode
from agentcy_ray.stores.postgres import Database

PAGE = 1000

_COLUMNS = """
SELECT org_id, seq, id, ts, user_id, api_key_id, category, action, decision, resource, policy_id,
       rule, reasons, input, context, encode(prev_hash, 'hex') AS prev_hash,
       encode(hash, 'hex') AS hash
FROM audit_log WHERE org_id = $1
"""
_MATCH = """
  AND ($2::text IS NULL OR decision = $2)
  AND ($3::text IS NULL OR action = $3)
  AND ($4::text IS NULL OR category = $4)
  AND ($5::text IS NULL OR resource->>'connector' = $5)
  AND ($6::uuid IS NULL OR user_id = $6)
  AND ($7::uuid IS NULL OR api_key_id = $7)
  AND ($8::timestamptz IS NULL OR ts >= $8)
  AND ($9::timestamptz IS NULL OR ts < $9)
  AND ($10::text IS NULL OR resource->>'tool' = $10)
  AND ($11::text IS NULL OR context->>'run_id' = $11)
"""
_NEWEST = _COLUMNS + _MATCH + "AND ($12::bigint IS NULL OR seq < $12) ORDER BY seq DESC LIMIT $13"
_OLDEST = _COLUMNS + _MATCH + "AND seq > $12 ORDER BY seq LIMIT $13"
_GET = _COLUMNS + "AND id = $2"
_RANGE = _COLUMNS + "AND seq BETWEEN $2 AND $3 ORDER BY seq LIMIT $4"
# One statement, so that head and tail are of one snapshot.
_ENDS = """
SELECT audit_head_seq, audit_head_hash,
       coalesce((SELECT max(seq) FROM audit_log WHERE org_id = $1), 0) AS last_seq
FROM organizations WHERE id = $1
"""


class AuditFilter(BaseModel):
    """Which entries; an absent field does not filter. ``since`` is inclusive, ``until`` is not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: AuditDecision | None = None
    action: str | None = None
    category: Category | None = None
    connector: str | None = None
    user_id: UserId | None = None
    api_key_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    tool: str | None = None
    """``connector.tool``."""
    run_id: RunId | None = None

    def parameters(self) -> list[Any]:
        """The values of ``$2`` to ``$11``."""
        run = None if self.run_id is None else encode("run", self.run_id)
        return [
            self.decision, self.action, self.category, self.connector, self.user_id,
            self.api_key_id, self.since, self.until, self.tool, run,
        ]  # fmt: skip


class Verification(BaseModel):
    """Whether a stretch of the chain holds."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    checked: int
    first_bad_seq: int | None = None


class AuditLog:
    """The audit logs of all organisations; each call names one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._writer = ChainWriter(db)

    async def append(self, entry: AuditEntry) -> UUID:
        """Write an entry and return its id once it is durable.

        Raises:
            StoreUnavailableError, StorageFullError: it is not known to be durable; whatever it
                was to witness must not be released.
        """
        await self._writer.append(entry)
        return entry.id

    async def get(self, org_id: UUID, audit_id: UUID) -> AuditRecord:
        """One entry.

        Raises:
            NotFoundError: there is none with this id.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, org_id, audit_id)
        if row is None:
            raise NotFoundError("no such audit entry")
        return AuditRecord(**dict(row))

    async def list(
        self,
        org_id: UUID,
        where: AuditFilter | None = None,
        *,
        limit: int = 50,
        before_seq: int | None = None,
    ) -> Sequence[AuditRecord]:
        """A page, newest first; the last one's ``seq`` is the next ``before_seq``."""
        parameters = (where or AuditFilter()).parameters()
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_NEWEST, org_id, *parameters, before_seq, limit)
        return [AuditRecord(**dict(row)) for row in rows]

    async def oldest_first(
        self, org_id: UUID, where: AuditFilter | None = None, *, after_seq: int = 0
    ) -> AsyncIterator[AuditRecord]:
        """Every matching entry after ``after_seq`` that is there now, page by page."""
        parameters = (where or AuditFilter()).parameters()
        while True:
            async with self._db.tenant(org_id) as connection:
                rows = await connection.fetch(_OLDEST, org_id, *parameters, after_seq, PAGE)
            for row in rows:
                yield AuditRecord(**dict(row))
            if len(rows) < PAGE:
                return
            after_seq = rows[-1]["seq"]

    async def export(
        self,
        org_id: UUID,
        where: AuditFilter | None = None,
        *,
        form: Literal["csv", "ndjson"] = "csv",
    ) -> AsyncIterator[bytes]:
        """The matching entries, oldest first, as lines of CSV (with a header) or NDJSON."""
        if form == "csv":
            yield _csv_line(list(AuditRecord.model_fields))
        async for record in self.oldest_first(org_id, where):
            if form == "csv":
                yield _csv_line([_cell(item) for item in record.model_dump(mode="json").values()])
            else:
                yield record.model_dump_json().encode() + b"\n"

    async def tail(
        self,
        org_id: UUID,
        after_seq: int,
        where: AuditFilter | None = None,
        *,
        poll_secs: float = 1.0,
    ) -> AsyncIterator[AuditRecord | None]:
        """Entries after ``after_seq`` for as long as the caller listens.

        Yields None when ``poll_secs`` brought nothing: the time for a ping.
        """
        while True:
            found = False
            async for record in self.oldest_first(org_id, where, after_seq=after_seq):
                found, after_seq = True, record.seq
                yield record
            if not found:
                yield None
                await asyncio.sleep(poll_secs)

    async def verify(
        self, org_id: UUID, from_seq: int | None = None, to_seq: int | None = None
    ) -> Verification:
        """Recompute the chain; finds edits, deletions, reordering, insertions and a cut tail.

        Args:
            org_id: whose chain.
            from_seq: first entry to check, 1 when None; it has to follow the one before it.
            to_seq: last entry to check, the head when None.
        """
        async with self._db.tenant(org_id) as connection:
            ends = await connection.fetchrow(_ENDS, org_id)
            if ends is None:
                raise NotFoundError("no such organisation")
        head: int = ends["audit_head_seq"]
        first = max(from_seq or 1, 1)
        last = head if to_seq is None else min(to_seq, head)
        checked, expected, seq = 0, GENESIS, first
        if first > 1:
            async with self._db.tenant(org_id) as connection:
                before = await connection.fetchrow(_RANGE, org_id, first - 1, first - 1, 1)
            if before is None:
                return Verification(ok=False, checked=0, first_bad_seq=first - 1)
            expected = bytes.fromhex(before["hash"])
        while seq <= last:
            async with self._db.tenant(org_id) as connection:
                rows = await connection.fetch(_RANGE, org_id, seq, last, PAGE)
            for row in rows:
                record = AuditRecord(**dict(row))
                if record.seq != seq or not _holds(record, expected):
                    return Verification(ok=False, checked=checked, first_bad_seq=seq)
                checked, seq, expected = checked + 1, seq + 1, bytes.fromhex(record.hash)
            if not rows:
                return Verification(ok=False, checked=checked, first_bad_seq=seq)
        if to_seq is None:
            if last >= first and expected != bytes(ends["audit_head_hash"]):
                return Verification(ok=False, checked=checked, first_bad_seq=head)
            if ends["last_seq"] > head:
                return Verification(ok=False, checked=checked, first_bad_seq=head + 1)
        return Verification(ok=True, checked=checked)

    async def close(self) -> None:
        """Wait for entries in flight."""
        await self._writer.close()


def _holds(record: AuditRecord, expected: bytes) -> bool:
    if record.prev_hash != expected.hex():
        return False
    try:
        return chain_hash(record, record.seq, expected).hex() == record.hash
    except ValueError:  # RFC 8785 has no form for it, so it never was an entry of ours
        return False


def _cell(value: Any) -> str:
    """A CSV cell; one that a spreadsheet would run as a formula gets an apostrophe."""
    text = (
        value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()
    )
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _csv_line(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()
