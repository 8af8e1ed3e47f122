"""Tools: what a connector offers, a call of one, and what came back."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.ids import ApprovalId, ArtifactId, AuditId, RunId, SourceId, ToolCallId


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


class ToolRequest(BaseModel):
    """One call on its way to a session host: everything decided, nothing left to choose."""

    model_config = ConfigDict(frozen=True)

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


class ToolOutcome(BaseModel):
    """What a session host answers: a value, or a typed fault. Never raises across Ray."""

    model_config = ConfigDict(frozen=True)

    tool_call_id: ToolCallId
    ok: bool
    value: Any = None
    """JSON value; text and tables are JSON too."""
    error_code: str | None = None
    error_message: str | None = None
    transient: bool = False
    usage_ms: float = 0.0


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


class ToolFault(BaseModel):
    """Why a call gave no result, in the words of the error codes."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str


class PolicyNote(BaseModel):
    """The decision that let a call through or stopped it."""

    model_config = ConfigDict(frozen=True)

    decision: Literal["allow", "deny"]
    audit_id: AuditId | None = None


class ToolResult(BaseModel):
    """The end of a governed call, as the model, the API and the event log see it."""

    model_config = ConfigDict(frozen=True)

    tool_call_id: ToolCallId
    status: ToolStatus
    result: Any = None
    error: ToolFault | None = None
    truncated: bool = False
    artifact_id: ArtifactId | None = None
    usage_ms: float = 0.0
    policy: PolicyNote | None = None
    approval_id: ApprovalId | None = None


class ToolCall(BaseModel):
    """A call as a caller asks for it, before any gate."""

    model_config = ConfigDict(frozen=True)

    connector: str
    tool: str
    args: dict[str, Any] = Field(default_factory=dict)
    source: str | None = None
    run_id: RunId | None = None
    position: int = 0
    """Place in the run: turn × 1000 + index; part of the idempotency key."""
