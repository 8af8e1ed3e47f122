"""Carrying a call out: on a session host, or by the platform itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from agentcy_ray.agent.builtins import Builtins
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.dispatch import Dispatcher
from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.errors import (
    AgentcyError,
    ConnectorUnavailableError,
    OutcomeUnknownError,
)
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import CatalogEntry, ToolFault, ToolOutcome, ToolRequest, ToolStatus

GRACE_SECS = 5.0
"""How long we wait past a call's deadline for the host to say so itself."""
UNKNOWN = "indeterminate"
_UNSURE = frozenset({UNKNOWN, "connector_timeout"})
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Answer:
    """What came of a dispatched call."""

    status: ToolStatus
    value: Any = None
    fault: ToolFault | None = None
    usage_ms: float = 0.0


class Backend:
    """Dispatches calls that every gate has let through. Faults are answers, never exceptions."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        builtins: Builtins,
        settings: Settings,
        clock: Clock | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._builtins = builtins
        self._timeout_secs = settings.tool_timeout_secs
        self._clock = clock or SystemClock()

    def limit_secs(self, entry: CatalogEntry) -> float:
        """How long a call of this tool is waited for, seconds."""
        return (entry.spec.timeout_secs or self._timeout_secs) + GRACE_SECS

    async def execute(self, ctx: CallContext, opened: OpenCall) -> Answer:
        """Carry out; a read, or a tool marked idempotent, is tried twice when its host is away."""
        entry = opened.entry
        assert entry is not None
        safe = not opened.effect.consequential or entry.spec.idempotent
        started = time.perf_counter()
        try:
            try:
                outcome = await self._attempt(ctx, opened)
            except (ConnectorUnavailableError, OutcomeUnknownError):
                if not safe:
                    raise
                outcome = await self._attempt(ctx, opened)
        except (OutcomeUnknownError, TimeoutError) as error:
            outcome = _fault(opened, UNKNOWN, str(error) or "no answer came in time")
        except AgentcyError as error:
            outcome = _fault(opened, error.code, error.message, error.transient)
        except Exception as error:  # noqa: BLE001  (a fault of a tool is an answer)
            _log.exception("tool_failed", tool=entry.name)
            code = "connector_error" if safe else UNKNOWN
            outcome = _fault(opened, code, f"{entry.name} failed: {type(error).__name__}")
        usage_ms = outcome.usage_ms or (time.perf_counter() - started) * 1000
        return _answer(outcome, safe=safe, usage_ms=usage_ms)

    async def _attempt(self, ctx: CallContext, opened: OpenCall) -> ToolOutcome:
        entry = opened.entry
        assert entry is not None
        limit = entry.spec.timeout_secs or self._timeout_secs
        if entry.source_id is None:
            async with asyncio.timeout(limit):
                value = await self._builtins.call(ctx, entry, opened)
            return ToolOutcome(tool_call_id=opened.tool_call_id, ok=True, value=value)
        request = ToolRequest(
            tool_call_id=opened.tool_call_id,
            org_id=ctx.org_id,
            source_id=entry.source_id,
            connector=entry.connector,
            tool=entry.spec.name,
            args=opened.call.args,
            effect=opened.effect,
            deadline=self._clock.now() + timedelta(seconds=limit),
            idempotency_key=(opened.key or opened.tool_call_id.hex)
            if opened.effect.consequential
            else None,
        )
        try:
            async with asyncio.timeout(self.limit_secs(entry)):
                return await self._dispatcher.call(request)
        except (asyncio.CancelledError, TimeoutError):
            if not opened.effect.consequential:
                await asyncio.shield(self._dispatcher.abandon([request]))
            raise


def _fault(opened: OpenCall, code: str, message: str, transient: bool = False) -> ToolOutcome:
    return ToolOutcome(
        tool_call_id=opened.tool_call_id,
        ok=False,
        error_code=code,
        error_message=message,
        transient=transient,
    )


def _answer(outcome: ToolOutcome, *, safe: bool, usage_ms: float) -> Answer:
    if outcome.ok:
        return Answer(ToolStatus.COMPLETED, value=outcome.value, usage_ms=usage_ms)
    code, message = outcome.error_code or "connector_error", outcome.error_message or "no reason"
    if code in _UNSURE and not safe:
        return Answer(ToolStatus.INDETERMINATE, fault=unknown_outcome(), usage_ms=usage_ms)
    if code == UNKNOWN:
        code = "connector_timeout"
    return Answer(ToolStatus.ERROR, fault=ToolFault(code=code, message=message), usage_ms=usage_ms)


def unknown_outcome() -> ToolFault:
    """The fault of an effect that was sent and never acknowledged."""
    return ToolFault(
        code=UNKNOWN,
        message="the call was sent and no answer came: it may or may not have had its effect. "
        "Do not repeat it blindly; look at the present state first, or ask a person",
    )
