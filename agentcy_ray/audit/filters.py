"""Which audit entries: the filters of every list, stream and export, and their SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

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
MATCH = """
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
"""The filters, with ``AuditFilter.parameters`` as ``$2`` to ``$11``."""
NEWEST = COLUMNS + MATCH + "AND ($12::bigint IS NULL OR seq < $12) ORDER BY seq DESC LIMIT $13"
OLDEST = COLUMNS + MATCH + "AND seq > $12 AND seq <= $13 ORDER BY seq LIMIT $14"


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

    def parameters(self) -> list[Any]:
        """The values of ``$2`` to ``$11``."""
        run = None if self.run_id is None else encode("run", self.run_id)
        return [
            self.decision, self.action, self.category, self.connector, self.user_id,
            self.api_key_id, self.since, self.until, self.tool, run,
        ]  # fmt: skip


EVERYTHING = AuditFilter()
