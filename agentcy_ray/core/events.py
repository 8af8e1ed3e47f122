"""Run events: the numbered log that streaming, resume, approvals and tests all read.

``seq`` grows by one from 1 within a run. ``message_end`` and ``error`` are terminal. ``ping`` is no
event of the log: the stream writes it without an id while nothing else is sent.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.ids import RunId


class EventType(StrEnum):
    """Names of the events, §10 of the product specification."""

    MESSAGE_START = "message_start"
    THINKING_DELTA = "thinking_delta"
    CONTENT_DELTA = "content_delta"
    TOOL_CALL_START = "tool_call_start"
    TOOL_CALL_DELTA = "tool_call_delta"
    TOOL_RESULT = "tool_result"
    APPROVAL_REQUIRED = "approval_required"
    APPROVAL_RESOLVED = "approval_resolved"
    CITATION = "citation"
    ARTIFACT = "artifact"
    SUBAGENT_START = "subagent_start"
    SUBAGENT_END = "subagent_end"
    COMPACTION = "compaction"
    WARNING = "warning"
    MESSAGE_END = "message_end"
    ERROR = "error"


TERMINAL = frozenset({EventType.MESSAGE_END, EventType.ERROR})


class RunEvent(BaseModel):
    """One line of a run's log."""

    model_config = ConfigDict(frozen=True)

    run_id: RunId
    seq: int
    type: EventType
    data: dict[str, Any]
    at: datetime

    @property
    def terminal(self) -> bool:
        """Whether the log ends here."""
        return self.type in TERMINAL


class Usage(BaseModel):
    """What a model call cost. ``cost_usd`` is None when the model has no known price."""

    model_config = ConfigDict(frozen=True)

    in_tokens: int = 0
    out_tokens: int = 0
    cost_usd: float | None = 0.0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        cost = (
            None
            if self.cost_usd is None or other.cost_usd is None
            else self.cost_usd + other.cost_usd
        )
        return Usage(
            in_tokens=self.in_tokens + other.in_tokens,
            out_tokens=self.out_tokens + other.out_tokens,
            cost_usd=cost,
            estimated=self.estimated or other.estimated,
        )
