"""Tools: what a connector offers, a call of one, and what came back.

What a connector declares is a model. A call and what comes of it are plain records: several are
made for each call, by code that is typed, and a model's checks would cost more than the gates do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.ids import (
    ApprovalId,
    ArtifactId,
    AuditId,
    RunId,
    SourceId,
    ToolCallId,
    encode,
)


class Effect(StrEnum):
    """What a call may do to the world, in rising order."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"

    @property
    def consequential(self) -> bool:
        """Whether the call changes something and so needs an intent and a receipt."""
        return self is not Effect.READ


class ToolSpec(BaseModel):
    """One tool of a connector, as its author declares it."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Name without the connector, for example ``list_pulls``."""
    title: str
    description: str
    input_schema: dict[str, Any]
    """JSON Schema of the arguments, an object schema with ``additionalProperties: false``."""
    effect: Effect
    requires_approval: bool = False
    idempotent: bool = False
    """Safe to repeat with the same arguments even though it writes."""
    probe: bool = False
    """Whether sessions can tell by an idempotency key what became of a call (``Probe``). Such a
    tool carries a key out once at most, however often and by whomever it is sent."""
    timeout_secs: float | None = None
    """Limit of one call in seconds; None = the setting ``TOOL_TIMEOUT_SECS``."""


class CatalogEntry(BaseModel):
    """A tool that a principal can reach: the spec, bound to a source and a realm."""

    model_config = ConfigDict(frozen=True)

    connector: str
    source: str | None
    """Name of the source; None for a built-in connector."""
    source_id: SourceId | None
    realm: str
    version: str
    spec: ToolSpec

    @property
    def name(self) -> str:
        """``connector.tool``."""
        return f"{self.connector}.{self.spec.name}"

    @property
    def builtin(self) -> bool:
        """Whether the platform itself executes it."""
        return self.source_id is None


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One call on its way to a session host: everything decided, nothing left to choose."""

    tool_call_id: ToolCallId
    org_id: UUID
    source_id: UUID
    connector: str
    tool: str
    args: dict[str, Any]
    effect: Effect
    deadline: datetime
    """When the caller stops waiting, UTC."""
    idempotency_key: str | None = None
    probe: bool = False
    """Ask what became of the call with this key instead of making it; the value is a ``Probe``."""


class Fate(StrEnum):
    """What became of a call whose answer was lost."""

    DONE = "done"
    NOT_DONE = "not_done"
    UNKNOWN = "unknown"


class Probe(BaseModel):
    """A connector's finding about one idempotency key."""

    model_config = ConfigDict(frozen=True)

    fate: Fate
    result: Any = None
    """The answer that the call gave, or would have given; only when it is done."""


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What a session host answers: a value, or a typed fault. Never raises across Ray."""

    tool_call_id: ToolCallId
    ok: bool
    value: Any = None
    """JSON value; text and tables are JSON too."""
    error_code: str | None = None
    error_message: str | None = None
    transient: bool = False
    usage_ms: float = 0.0
    encoded: bytes | None = None
    """The value as JSON, where it came as such: it need not be written out again."""


class ToolStatus(StrEnum):
    """States of a tool call; moves are in ``core/states.py``."""

    ROUTED = "routed"
    DENIED = "denied"
    WAITING_APPROVAL = "waiting_approval"
    DISPATCHED = "dispatched"
    COMPLETED = "completed"
    ERROR = "error"
    INDETERMINATE = "indeterminate"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ToolFault:
    """Why a call gave no result, in the words of the error codes."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PolicyNote:
    """The decision that let a call through or stopped it."""

    decision: Literal["allow", "deny"]
    audit_id: AuditId | None = None

    def document(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        return {"decision": self.decision, "audit_id": _public("aud", self.audit_id)}


@dataclass(slots=True)
class ToolResult:
    """The end of a governed call, as the model, the API and the event log see it.

    The gateway fills it stage by stage and changes nothing of it once it is released.
    """

    tool_call_id: ToolCallId
    status: ToolStatus
    result: Any = None
    error: ToolFault | None = None
    truncated: bool = False
    artifact_id: ArtifactId | None = None
    usage_ms: float = 0.0
    policy: PolicyNote | None = None
    approval_id: ApprovalId | None = None
    encoded: bytes | None = field(default=None, compare=False, repr=False)
    """``result`` as JSON, where that is at hand."""

    def document(self) -> dict[str, Any]:
        """Its fields as JSON values; ``result`` is JSON since it was redacted."""
        error, note = self.error, self.policy
        return {
            "tool_call_id": encode("tc", self.tool_call_id),
            "status": self.status.value,
            "result": self.result,
            "error": None if error is None else {"code": error.code, "message": error.message},
            "truncated": self.truncated,
            "artifact_id": _public("art", self.artifact_id),
            "usage_ms": self.usage_ms,
            "policy": None if note is None else note.document(),
            "approval_id": _public("apr", self.approval_id),
        }


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as a caller asks for it, before any gate."""

    connector: str
    tool: str
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    source: str | None = None
    run_id: RunId | None = None
    position: int = 0
    """Place in the run: turn × 1000 + index; part of the idempotency key."""


def _public(prefix: str, value: UUID | None) -> str | None:
    return None if value is None else encode(prefix, value)
