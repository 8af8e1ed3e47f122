"""One line of the audit log, and the hash that chains it to the line before.

``hash = SHA-256(prev_hash ‖ RFC 8785 of the entry)``: the canonical form does not depend on how a
database or a library happens to print JSON, so anybody can check the chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import rfc8785
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.ids import AuditId, OrgId, UserId, new_id

Category = Literal["policy", "auth", "connector", "chat", "channel", "admin", "memory"]
AuditDecision = Literal["allow", "deny"]
GENESIS = bytes(32)
"""``prev_hash`` of the first entry."""
_READS = frozenset({"graph.query", "rag.search", "memory.read", "activity.write"})
_EXACT = 2**53


class AuditEntry(BaseModel):
    """What happened: who asked for what, and what was decided."""

    model_config = ConfigDict(frozen=True)

    id: AuditId = Field(default_factory=new_id)
    ts: datetime = Field(default_factory=lambda: datetime.now(UTC))
    org_id: OrgId
    user_id: UserId | None = None
    api_key_id: UUID | None = None
    category: Category
    action: str
    decision: AuditDecision
    resource: dict[str, Any] = Field(default_factory=dict)
    policy_id: str | None = None
    rule: str | None = None
    reasons: tuple[str, ...] = ()
    input: dict[str, Any] | None = None
    """The whole Rego input, redacted."""
    context: dict[str, Any] = Field(default_factory=dict)
    """``ip, request_id, run_id, latency_ms`` and what else helps to find the occasion."""


class AuditRecord(AuditEntry):
    """A stored entry."""

    seq: int
    prev_hash: str
    """Hexadecimal."""
    hash: str
    """Hexadecimal."""


def kept(action: str, decision: AuditDecision) -> bool:
    """Whether an entry is written: every deny, and every allow but those of plain reads."""
    return decision == "deny" or not (action.endswith(".read") or action in _READS)


def plain(entry: AuditEntry) -> AuditEntry:
    """The entry with JSON fields that Postgres and RFC 8785 both take unchanged."""
    return entry.model_copy(
        update={
            "resource": _plain(entry.resource),
            "reasons": tuple(_plain(reason) for reason in entry.reasons),
            "input": _plain(entry.input),
            "context": _plain(entry.context),
            "rule": _plain(entry.rule),
        }
    )


def chain_hash(entry: AuditEntry, seq: int, prev_hash: bytes) -> bytes:
    """The hash of ``entry`` (as ``plain`` gives it) at place ``seq`` after ``prev_hash``."""
    canonical = {
        "id": str(entry.id),
        "seq": seq,
        "ts": entry.ts.astimezone(UTC).isoformat(timespec="microseconds"),
        "org_id": str(entry.org_id),
        "user_id": None if entry.user_id is None else str(entry.user_id),
        "api_key_id": None if entry.api_key_id is None else str(entry.api_key_id),
        "category": entry.category,
        "action": entry.action,
        "decision": entry.decision,
        "resource": entry.resource,
        "policy_id": entry.policy_id,
        "rule": entry.rule,
        "reasons": list(entry.reasons),
        "input": entry.input,
        "context": entry.context,
    }
    return sha256(prev_hash + rfc8785.dumps(canonical)).digest()


def _plain(value: Any) -> Any:
    """JSON within the common ground of ``jsonb`` and I-JSON (RFC 7493).

    Numbers beyond 2⁵³ become text, as RFC 8785 §6 advises; ``jsonb`` knows no NUL character.
    """
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) and abs(value) < _EXACT else repr(value)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _plain(str(value))
