"""An approval as it is stored, asked for and told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.clock import rfc3339
from agentcy_ray.core.ids import (
    ApprovalId,
    ConversationId,
    OrgId,
    RunId,
    SourceId,
    ToolCallId,
    UserId,
    encode,
)
from agentcy_ray.core.tools import Effect

Via = Literal["api", "console", "cli", "slack", "email", "webchat", "webhook", "mcp"]
Status = Literal["pending", "approved", "denied", "expired", "cancelled", "consumed"]


class Vote(BaseModel):
    """What one decider said."""

    model_config = ConfigDict(frozen=True)

    by: UserId
    approved: bool
    via: Via
    note: str | None
    at: datetime


class Approval(BaseModel):
    """An approval row."""

    model_config = ConfigDict(frozen=True)

    id: ApprovalId
    org_id: OrgId
    run_id: RunId | None
    conversation_id: ConversationId | None
    tool_call_id: ToolCallId
    connector: str
    source_id: SourceId | None
    tool: str
    args: dict[str, Any]
    """Masked, as a decider sees them."""
    args_sha256: str
    effect: Effect
    reasons: tuple[str, ...]
    by_policy: bool
    """Whether a policy asked for it: then only the full grant may decide."""
    quorum: int = 1
    """How many different people have to approve; one refusal denies."""
    second_person: bool = False
    """Whether a policy keeps the requester from deciding; the organisation may do so too."""
    votes: tuple[Vote, ...] = ()
    """Given so far, oldest first; filled where an approval is shown to a person."""
    status: Status
    requested_by: UserId
    decided_by: UserId | None
    """Of several, the one whose vote decided."""
    decided_via: Via | None
    note: str | None
    expires_at: datetime
    decided_at: datetime | None
    consumed_at: datetime | None
    created_at: datetime

    def required(self) -> dict[str, Any]:
        """Data of the event ``approval_required``."""
        return {
            "approval_id": encode("apr", self.id),
            "tool_call_id": encode("tc", self.tool_call_id),
            "connector": self.connector,
            "tool": self.tool,
            "args": self.args,
            "effect": self.effect.value,
            "reason": self.reasons[0],
            "reasons": list(self.reasons),
            "quorum": self.quorum,
            "expires_at": rfc3339(self.expires_at),
        }

    def resolved(self) -> dict[str, Any]:
        """Data of the event ``approval_resolved``."""
        return {
            "approval_id": encode("apr", self.id),
            # The call that an approval was used up by is another matter.
            "status": "approved" if self.status == "consumed" else self.status,
            "decided_by": None if self.decided_by is None else encode("usr", self.decided_by),
            "via": self.decided_via,
            "note": self.note,
        }


@dataclass(frozen=True)
class NewApproval:
    """What is asked of a person."""

    tool_call_id: UUID
    run_id: UUID | None
    conversation_id: UUID | None
    connector: str
    source_id: UUID | None
    tool: str
    args: dict[str, Any]
    args_sha256: str
    effect: Effect
    reasons: tuple[str, ...]
    by_policy: bool
    requested_by: UUID
    quorum: int = 1
    second_person: bool = False
