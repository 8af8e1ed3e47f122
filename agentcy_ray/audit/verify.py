"""Checking a chain: every hash recomputed, from the first entry or the anchor to the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.audit.canonical import chain_hash
from agentcy_ray.audit.entry import GENESIS, AuditRecord
from agentcy_ray.audit.filters import COLUMNS
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.stores.postgres import Database

PAGE = 500
"""Entries read and hashed at a time: a few milliseconds of the event loop."""

_RANGE = COLUMNS + "AND seq BETWEEN $2 AND $3 ORDER BY seq LIMIT $4"
_HASH = "SELECT hash FROM audit_log WHERE org_id = $1 AND seq = $2"
# One statement, so that all of it is of one snapshot.
_ENDS = """
SELECT audit_head_seq AS head, audit_head_hash AS head_hash,
       (SELECT min(seq) FROM audit_log WHERE org_id = $1) AS first_seq,
       coalesce((SELECT max(seq) FROM audit_log WHERE org_id = $1), 0) AS last_seq,
       coalesce(a.upto_seq, 0) AS removed, a.hash AS removed_hash
FROM organizations
LEFT JOIN (SELECT upto_seq, hash FROM audit_anchors WHERE org_id = $1
           ORDER BY upto_seq DESC LIMIT 1) a ON true
WHERE id = $1
"""


class Verification(BaseModel):
    """Whether a stretch of the chain holds."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    checked: int
    first_bad_seq: int | None = None


@dataclass(frozen=True)
class Ends:
    """Where a chain begins and ends."""

    removed: int
    """The last seq that retention has removed, 0 when none."""
    removed_hash: bytes
    head: int
    head_hash: bytes
    first_seq: int | None
    """Of the rows that are there; not to be trusted, like ``last_seq``."""
    last_seq: int


async def verify(
    db: Database, org_id: UUID, from_seq: int | None = None, to_seq: int | None = None
) -> Verification:
    """Recompute the chain; finds edits, deletions, reordering, insertions and a cut at either end.

    Args:
        db: where the log is.
        org_id: whose chain.
        from_seq: first entry to check; it has to follow the one before it. None, or one that
            retention has removed: the oldest that is kept.
        to_seq: last entry to check, the head when None.

    Raises:
        NotFoundError: there is no such organisation.
    """
    ends = await _ends(db, org_id)
    first = max(from_seq or 1, ends.removed + 1)
    last = ends.head if to_seq is None else min(to_seq, ends.head)
    if ends.first_seq is not None and ends.first_seq <= ends.removed:
        return Verification(ok=False, checked=0, first_bad_seq=ends.first_seq)
    expected = await _hash_before(db, org_id, first, ends)
    if expected is None:
        return Verification(ok=False, checked=0, first_bad_seq=first - 1)
    checked, seq = 0, first
    while seq <= last:
        async with db.tenant(org_id) as connection:
            rows = await connection.fetch(_RANGE, org_id, seq, last, PAGE)
        for row in rows:
            if row["seq"] != seq or not _holds(row, expected):
                return Verification(ok=False, checked=checked, first_bad_seq=min(seq, row["seq"]))
            checked, seq, expected = checked + 1, seq + 1, bytes.fromhex(row["hash"])
        if not rows:
            return Verification(ok=False, checked=checked, first_bad_seq=seq)
    if to_seq is None:
        if last >= first and expected != ends.head_hash:
            return Verification(ok=False, checked=checked, first_bad_seq=ends.head)
        if ends.last_seq > ends.head:
            return Verification(ok=False, checked=checked, first_bad_seq=ends.head + 1)
    return Verification(ok=True, checked=checked)


async def _ends(db: Database, org_id: UUID) -> Ends:
    async with db.tenant(org_id) as connection:
        row = await connection.fetchrow(_ENDS, org_id)
    if row is None:
        raise NotFoundError("no such organisation; it was deleted, or never was")
    return Ends(
        removed=row["removed"],
        removed_hash=bytes(row["removed_hash"] or GENESIS),
        head=row["head"],
        head_hash=bytes(row["head_hash"]),
        first_seq=row["first_seq"],
        last_seq=row["last_seq"],
    )


async def _hash_before(db: Database, org_id: UUID, first: int, ends: Ends) -> bytes | None:
    """The hash that ``first`` has to follow; None when that entry is missing."""
    if first == ends.removed + 1:
        return ends.removed_hash
    async with db.tenant(org_id) as connection:
        found = await connection.fetchval(_HASH, org_id, first - 1)
    return None if found is None else bytes(found)


def _holds(row: Any, expected: bytes) -> bool:
    if row["prev_hash"] != expected.hex():
        return False
    # Without validation: what the columns hold is what is checked, whatever it is.
    record = AuditRecord.model_construct(None, **dict(row))
    try:
        return chain_hash(record, record.seq, expected).hex() == record.hash
    except ValueError:  # RFC 8785 has no form for it, so it never was an entry of ours
        return False
