"""Audit entries of approvals: one for each vote, each expiry and each cancellation.

An entry's id is fixed by the transaction that makes the move, so whoever finds a move without its
entry, because a process died between the two, writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from agentcy_ray.agent.approval_records import Approval
from agentcy_ray.agent.approval_rows import COLUMNS, approval_of
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.core.ids import encode
from agentcy_ray.stores.postgres import Database

SETTLE_SECS = 60.0
"""A move without an entry for so long has lost its process."""
LOOK_BACK_SECS = 3600.0
_LIMIT = 200
_ONE_AT_A_TIME = "SELECT pg_try_advisory_xact_lock(hashtext('agentcy approval audit'))"

# The entries of a process that died are younger than the look-back: sweeps run every few seconds.
_VOTES = f"""
SELECT {", ".join(f"a.{name.strip()}" for name in COLUMNS.split(","))}, v.id AS vote_id,
  v.user_id, v.api_key_id, v.approved, v.via, v.note AS vote_note, v.request_id,
  v.audit_id AS vote_audit_id
FROM approval_votes v JOIN approvals a ON a.id = v.approval_id
WHERE v.created_at BETWEEN clock_timestamp() - make_interval(secs => $2)
                       AND clock_timestamp() - make_interval(secs => $1)
  AND NOT EXISTS (SELECT 1 FROM audit_log l WHERE l.org_id = v.org_id AND l.id = v.audit_id)
LIMIT {_LIMIT}
"""
_ENDS = f"""
SELECT {COLUMNS}, audit_id FROM approvals
WHERE ended_at BETWEEN clock_timestamp() - make_interval(secs => $2)
                   AND clock_timestamp() - make_interval(secs => $1)
  AND NOT EXISTS (SELECT 1 FROM audit_log l
                  WHERE l.org_id = approvals.org_id AND l.id = approvals.audit_id)
LIMIT {_LIMIT}
"""


class ApprovalAudit:
    """Writes what became of approvals into the audit log."""

    def __init__(self, db: Database, audit: AuditLog) -> None:
        self._db = db
        self._audit = audit

    async def vote(self, approval: Approval, vote: Mapping[str, Any]) -> None:
        """Witness one vote; returns once the entry is durable.

        Args:
            approval: as the vote left it.
            vote: ``user_id, api_key_id, approved, via, vote_note, request_id, vote_audit_id``.
        """
        await self._audit.append(
            AuditEntry(
                id=vote["vote_audit_id"],
                org_id=approval.org_id,
                user_id=vote["user_id"],
                api_key_id=vote["api_key_id"],
                category="chat",
                action="chat.approve",
                decision="allow",
                resource={**_resource(approval), "approved": vote["approved"]},
                reasons=(vote["vote_note"],) if vote["vote_note"] else (),
                context={
                    **_context(approval),
                    "request_id": vote["request_id"],
                    "via": vote["via"],
                },
            )
        )

    async def ended(self, approval: Approval, audit_id: UUID) -> None:
        """Witness that an approval expired or was cancelled."""
        await self._audit.append(
            AuditEntry(
                id=audit_id,
                org_id=approval.org_id,
                user_id=approval.requested_by,
                category="chat",
                action=f"chat.approval.{approval.status}",
                decision="deny",
                resource=_resource(approval),
                context=_context(approval),
            )
        )

    async def repair(self, settle_secs: float = SETTLE_SECS) -> int:
        """Write the entries that processes died before writing; gives their number."""
        async with self._db.system() as connection:
            if not await connection.fetchval(_ONE_AT_A_TIME):
                return 0  # another process is at it
            votes = await connection.fetch(_VOTES, settle_secs, LOOK_BACK_SECS)
            ends = await connection.fetch(_ENDS, settle_secs, LOOK_BACK_SECS)
            for row in votes:
                await self.vote(approval_of(row), dict(row))
            for row in ends:
                await self.ended(approval_of(row), row["audit_id"])
        return len(votes) + len(ends)


def _resource(approval: Approval) -> dict[str, Any]:
    return {
        "type": "approval",
        "id": encode("apr", approval.id),
        "status": approval.status,
        "quorum": approval.quorum,
        "connector": approval.connector,
        "tool": f"{approval.connector}.{approval.tool}",
        "args_sha256": approval.args_sha256,
    }


def _context(approval: Approval) -> dict[str, Any]:
    return {
        "run_id": None if approval.run_id is None else encode("run", approval.run_id),
        "tool_call_id": encode("tc", approval.tool_call_id),
    }
