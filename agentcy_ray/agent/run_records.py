"""The records of a run: what starts one, its row, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentcy_ray.agent.profiles import AgentProfile
from agentcy_ray.agent.runlog import NewEvent, RunKey
from agentcy_ray.core.events import EventType, Usage
from agentcy_ray.core.ids import AgentId, ConversationId, MessageId, OrgId, RunId, encode
from agentcy_ray.core.repair import repaired
from agentcy_ray.core.states import RUN, ends
from agentcy_ray.core.tenancy import Principal

Kind = Literal["chat", "task", "workflow_step", "subagent", "tool", "openai"]
Status = Literal["queued", "running", "waiting_approval", "completed", "failed", "cancelled"]
FinishReason = Literal[
    "end_turn", "max_iterations", "cancelled", "max_tokens", "budget_exceeded", "timeout", "error"
]


class Said(BaseModel):
    """A turn before the question, as a caller without a stored conversation tells it."""

    model_config = ConfigDict(frozen=True)

    role: Literal["user", "assistant"]
    text: Annotated[str, BeforeValidator(repaired)]


class RunInput(BaseModel):
    """What the run was asked."""

    model_config = ConfigDict(frozen=True)

    text: str
    request_id: str | None = None
    history: tuple[Said, ...] = ()
    """What was said before, oldest first, where no conversation holds it."""
    instructions: str | None = None
    """Of the caller, added to the agent's own."""


class Run(BaseModel):
    """A run's row."""

    model_config = ConfigDict(frozen=True)

    id: RunId
    org_id: OrgId
    kind: Kind
    conversation_id: ConversationId | None
    agent_id: AgentId | None
    agent: str
    model: str
    principal: Principal
    realm: str | None
    input: RunInput
    status: Status
    finish_reason: FinishReason | None
    usage: Usage
    message_id: MessageId
    parent_run_id: RunId | None
    on_disconnect: Literal["continue", "cancel"]
    owner: str | None
    epoch: int
    lease_until: datetime | None
    cancel_requested: bool
    last_seq: int
    created_at: datetime
    ended_at: datetime | None

    @property
    def key(self) -> RunKey:
        """The run at this epoch; what its writes name."""
        return RunKey(self.org_id, self.id, self.epoch)

    @property
    def ended(self) -> bool:
        """Whether nothing will follow."""
        return self.status in ends(RUN)


class NewRun(BaseModel):
    """A run to be started."""

    model_config = ConfigDict(frozen=True)

    kind: Kind = "chat"
    conversation_id: UUID | None = None
    agent: AgentProfile
    model: str
    """Resolved reference, see ``choose_model``."""
    realm: str | None = None
    text: Annotated[str, BeforeValidator(repaired), Field(min_length=1)]
    history: tuple[Said, ...] = ()
    instructions: Annotated[str | None, BeforeValidator(repaired)] = None
    idempotency_key: str | None = None
    on_disconnect: Literal["continue", "cancel"] = "continue"
    parent_run_id: UUID | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Started:
    """A run, and whether it had been started before under the same key."""

    run: Run
    replayed: bool


@dataclass(frozen=True)
class Ending:
    """How a run ends; all of it is written in one transaction."""

    status: Literal["completed", "failed", "cancelled"]
    reason: FinishReason
    usage: Usage
    events: tuple[NewEvent, ...]
    """The last events, the terminal one included."""
    text: str = ""
    """The assistant's message; nothing is stored when it is empty."""
    citations: tuple[dict[str, Any], ...] = ()
    tool_calls: int = 0


def choose_model(
    conversation: str | None, agent: AgentProfile, organization: str | None, default: str
) -> str:
    """The model of a run: the conversation's, else the agent's, the org's, the default."""
    return conversation or agent.model or organization or default


def cancelled(run: Run, *, usage: Usage | None = None, text: str = "") -> Ending:
    """The ending of a cancelled run."""
    used = usage or run.usage
    return Ending(
        status="cancelled",
        reason="cancelled",
        usage=used,
        events=(message_end(run, "cancelled", used),),
        text=text,
    )


def message_end(run: Run, reason: FinishReason, usage: Usage) -> NewEvent:
    """The terminal event of a run that did not fail."""
    return EventType.MESSAGE_END, {
        "finish_reason": reason,
        "usage": usage.model_dump(mode="json"),
        "message_id": encode("msg", run.message_id),
    }
