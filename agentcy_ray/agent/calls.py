"""What travels with a governed call: who makes it, and how far it has come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol
from uuid import UUID, uuid5

from agentcy_ray.agent.approval_records import Approval
from agentcy_ray.agent.tool_calls import ToolCallRow
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import (
    CatalogEntry,
    Effect,
    ToolCall,
    ToolFault,
    ToolResult,
    ToolStatus,
)
from agentcy_ray.policy.input import Decision, Occasion, PolicyInput

Emit = Callable[[EventType, dict[str, Any]], Awaitable[None]]
"""Writes an event of the run; a call outside of a run has nobody to tell."""

Ready = Callable[[], Awaitable[object]]
"""Returns once what calls belong to is stored; nothing of a call is stored before."""


class Agent(Protocol):
    """What the gates read of an agent; ``AgentProfile`` is one."""

    @property
    def name(self) -> str:
        """``input.context.agent``."""
        ...

    @property
    def realms(self) -> tuple[str, ...] | None:
        """Realms that it may look into; None = all."""
        ...

    @property
    def connectors(self) -> tuple[str, ...] | None:
        """Connectors that it may use; None = all."""
        ...

    @property
    def approval_defaults(self) -> Any:
        """Effect → ``allow``, ``approve`` or ``deny``; wins over the organisation's."""
        ...


async def nobody(event: EventType, data: dict[str, Any]) -> None:
    """The ``Emit`` of calls outside of a run."""


async def at_once() -> None:
    """The ``Ready`` of calls that belong to nothing."""


@dataclass(frozen=True)
class CallContext:
    """Who calls, and on what occasion. Frozen for the length of a call."""

    principal: Principal
    realm: str | None = None
    run_id: UUID | None = None
    conversation_id: UUID | None = None
    agent: Agent | None = None
    request_id: str | None = None
    emit: Emit = field(default=nobody, compare=False)
    ip: str | None = None
    parent_run_id: UUID | None = None
    ready: Ready = field(default=at_once, compare=False)

    @property
    def org_id(self) -> UUID:
        """The tenant."""
        return self.principal.org_id

    def call_id(self, position: int) -> UUID:
        """Id of the call at a position; derived in a run, so a successor means the same one."""
        return new_id() if self.run_id is None else uuid5(self.run_id, str(position))

    @property
    def realms(self) -> tuple[str, ...] | None:
        """Realms that the call may read; None = every one of the organisation."""
        asked = None if self.realm is None else (self.realm,)
        if self.agent is not None and self.agent.realms is not None:
            allowed = self.agent.realms
            asked = allowed if asked is None else tuple(r for r in asked if r in allowed)
        return self.principal.bind_realms(asked)


class Times:
    """How long a call's stages took, seconds; 0 = it did not come to that stage."""

    __slots__ = ("approval", "audit", "began", "dispatch", "gate", "policy", "queue", "sent")

    def __init__(self) -> None:
        self.began = perf_counter()
        self.gate = self.policy = self.approval = self.dispatch = self.queue = self.audit = 0.0
        self.sent = 0.0
        """When it was sent off, on the clock of ``perf_counter``."""


@dataclass(slots=True)
class OpenCall:
    """A call between ``open`` and ``finish``. With ``result`` set there is nothing left to do."""

    tool_call_id: UUID
    call: ToolCall
    effect: Effect = Effect.READ
    entry: CatalogEntry | None = None
    args_json: bytes = b""
    """The arguments in their canonical form."""
    args_sha256: str = ""
    key: str | None = None
    """Idempotency key; calls outside of a run have none, nor do reads that nobody approves."""
    occasion: Occasion | None = None
    question: PolicyInput | None = None
    decision: Decision | None = None
    approval: Approval | None = None
    row: ToolCallRow | None = None
    """What a former executor left of this very call."""
    recorded: bool = False
    """Whether there is a row to be ended."""
    local: Callable[[], Awaitable[Any]] | None = None
    """Set for meta-tools that the agent answers itself."""
    result: ToolResult | None = None
    times: Times = field(default_factory=Times, compare=False)

    @property
    def waiting(self) -> bool:
        """Whether ``finish`` will wait for a person."""
        return self.result is None and self.approval is not None

    def ended(
        self, status: ToolStatus, code: str, message: str, approval_id: UUID | None = None
    ) -> ToolResult:
        """A result without a value."""
        return ToolResult(
            tool_call_id=self.tool_call_id,
            status=status,
            error=ToolFault(code=code, message=message),
            approval_id=approval_id or (self.approval.id if self.approval else None),
        )

    def failed(self, error: AgentcyError) -> ToolResult:
        """The result of a call that a typed error stopped before it was dispatched."""
        return self.ended(ToolStatus.ERROR, error.code, error.message)
