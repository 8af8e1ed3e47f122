"""The log of a governed run as the pieces of an answer. Tool calls stay with the run."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any
from uuid import UUID

from agentcy_ray.agent.run_records import FinishReason
from agentcy_ray.agent.runlog import RunLog
from agentcy_ray.api.routes.v1.pieces import (
    Finish,
    Idle,
    Notice,
    Piece,
    Pieces,
    Reason,
    Reasoning,
    Void,
    Words,
)
from agentcy_ray.core.errors import (
    AgentcyError,
    BackendError,
    ModelError,
    ModelTimeoutError,
    StoreUnavailableError,
)
from agentcy_ray.core.events import EventType, RunEvent, Usage
from agentcy_ray.core.ids import encode

_REASONS: dict[FinishReason, Reason] = {
    "end_turn": "end",
    "max_tokens": "length",
    "max_iterations": "length",
    "budget_exceeded": "length",
    "timeout": "length",
    "cancelled": "end",
    "error": "end",
}
"""The vendors know fewer ways to end; ``x_agentcy.finish_reason`` says the exact one."""
_FAILURES: dict[str, type[BackendError]] = {
    "llm_error": ModelError,
    "llm_timeout": ModelTimeoutError,
    "unavailable": StoreUnavailableError,
}


async def run_pieces(log: RunLog, org_id: UUID, run_id: UUID) -> Pieces:
    """What a run says, from its beginning on. Holds ids only, since thousands of these may wait.

    Raises:
        AgentcyError: the run failed, with the code that its log has.
    """
    citations: list[dict[str, Any]] = []
    async with aclosing(log.follow(org_id, run_id, 0)) as events:
        async for event in events:
            if event is None:
                yield Idle()
                continue
            if event.type is EventType.CITATION:
                citations.append(event.data)
                continue
            piece = _piece(event, citations)
            if piece is not None:
                yield piece
            event = piece = None  # keep nothing while the next one is waited for


def _piece(event: RunEvent, citations: list[dict[str, Any]]) -> Piece | None:
    data, run = event.data, encode("run", event.run_id)
    match event.type:
        case EventType.CONTENT_DELTA:
            return Words(data["delta"], event.seq)
        case EventType.THINKING_DELTA:
            return Reasoning(data["delta"])
        case EventType.APPROVAL_REQUIRED:
            return Notice({"run_id": run, "approval_id": data["approval_id"]})
        case EventType.WARNING if data["code"] == "turn_restarted":
            return Void(data["from_seq"], data["message"])
        case EventType.MESSAGE_END:
            notes: dict[str, Any] = {"run_id": run, "finish_reason": data["finish_reason"]}
            if citations:
                notes["citations"] = citations
            return Finish(
                reason=_REASONS[data["finish_reason"]],
                usage=Usage.model_validate(data["usage"]),
                notes=notes,
            )
        case EventType.ERROR:
            raise _failure(run, data)
        case _:
            return None


def _failure(run: str, data: dict[str, Any]) -> AgentcyError:
    message = f"{data['message']} (run {run})"
    if data["code"] == "internal":
        return AgentcyError(message, run_id=run)
    kind = _FAILURES.get(data["code"], BackendError)
    return kind(message, code=data["code"], run_id=run)
