"""One line of the audit log.

``hash = SHA-256(prev_hash ‖ RFC 8785 of the entry)`` chains it to the line before: the canonical
form does not depend on how a database or a library happens to print JSON, so anybody can check the
chain. ``canonical.py`` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.ids import ApiKeyId, AuditId, OrgId, UserId, new_id

Category = Literal["policy", "auth", "connector", "chat", "channel", "admin", "memory"]
AuditDecision = Literal["allow", "deny"]
GENESIS = bytes(32)
"""``prev_hash`` of the first entry."""
_READS = frozenset({"graph.query", "rag.search", "memory.read", "activity.write"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What happened: who asked for what, and what was decided.

    Not a model: one is made for every tool call. In ``input``, parts that are in their canonical
    form already may be ``orjson.Fragment`` of bytes.
    """

    id: UUID = field(default_factory=new_id)
    ts: datetime = field(default_factory=lambda: datetime.now(UTC))
    org_id: UUID
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    category: Category
    action: str
    decision: AuditDecision
    resource: dict[str, Any] = field(default_factory=dict[str, Any])
    policy_id: str | None = None
    rule: str | None = None
    reasons: tuple[str, ...] = ()
    input: dict[str, Any] | None = None
    """The whole Rego input, redacted."""
    context: dict[str, Any] = field(default_factory=dict[str, Any])
    """``ip, request_id, run_id, latency_ms`` and what else helps to find the occasion."""


class AuditRecord(BaseModel):
    """A stored entry, as everybody may read it."""

    model_config = ConfigDict(frozen=True)

    id: AuditId
    ts: datetime
    org_id: OrgId
    user_id: UserId | None
    api_key_id: ApiKeyId | None
    category: Category
    action: str
    decision: AuditDecision
    resource: dict[str, Any]
    policy_id: str | None
    rule: str | None
    reasons: tuple[str, ...]
    input: dict[str, Any] | None
    context: dict[str, Any]
    seq: int
    prev_hash: str
    """Hexadecimal."""
    hash: str
    """Hexadecimal."""


def kept(action: str, decision: AuditDecision) -> bool:
    """Whether an entry is written: every deny, and every allow but those of plain reads."""
    return decision == "deny" or not (action.endswith(".read") or action in _READS)
