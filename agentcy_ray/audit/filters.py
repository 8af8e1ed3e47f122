"""Which audit entries: the filters of every list, stream and export, and their SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.audit.entry import AuditDecision, Category
from agentcy_ray.core.ids import ApiKeyId, RunId, UserId, encode

COLUMNS = """
SELECT org_id, seq, id, ts, user_id, api_key_id, category, action, decision, resource, policy_id,
       rule, reasons, input, context, encode(prev_hash, 'hex') AS prev_hash,
       encode(hash, 'hex') AS hash
FROM audit_log WHERE org_id = $1
"""
"""Begins a query whose rows are those of ``AuditRecord``; ``$1`` is the organisation."""
# Only what is asked for is in the statement, so that the planner can go by time or by action.
_CLAUSES = {
    "decision": "decision = {}",
    "action": "action = {}",
    "category": "category = {}",
    "connector": "resource->>'connector' = {}",
    "user_id": "user_id = {}",
    "api_key_id": "api_key_id = {}",
    "since": "ts >= {}",
    "until": "ts < {}",
    "tool": "resource->>'tool' = {}",
    "run_id": "context->>'run_id' = {}",
}


class AuditFilter(BaseModel):
    """Which entries; an absent field does not filter. ``since`` is inclusive, ``until`` is not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: AuditDecision | None = None
    action: str | None = None
    category: Category | None = None
    connector: str | None = None
    user_id: UserId | None = None
    api_key_id: ApiKeyId | None = None
    since: datetime | None = None
    until: datetime | None = None
    tool: str | None = None
    """``connector.tool``."""
    run_id: RunId | None = None

    def query(self, org_id: UUID) -> Query:
        """A query for the entries of ``org_id`` that match."""
        query = Query(org_id)
        for name, clause in _CLAUSES.items():
            value = getattr(self, name)
            if value is not None:
                query.add(clause, encode("run", value) if name == "run_id" else value)
        return query


class Query:
    """SQL and its arguments, as they grow."""

    def __init__(self, org_id: UUID) -> None:
        self.sql = COLUMNS
        self.arguments: list[Any] = [org_id]

    def add(self, clause: str, value: Any) -> None:
        """One more condition; ``{}`` is the place of its value."""
        self.sql += f"  AND {clause.format(self._place(value))}\n"

    def ordered(self, order: str, limit: int) -> tuple[str, list[Any]]:
        """The whole statement and its arguments."""
        place = self._place(limit)
        return f"{self.sql}ORDER BY {order} LIMIT {place}", self.arguments

    def _place(self, value: Any) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}"


EVERYTHING = AuditFilter()
