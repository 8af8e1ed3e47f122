"""Carrying a call out: on a session host, or by the platform itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError

from agentcy_ray.agent.builtins import Builtins
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.dispatch import Dispatcher
from agentcy_ray.connectors.calls import Told
from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.errors import (
    AgentcyError,
    ConnectorUnavailableError,
    OutcomeUnknownError,
)
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import (
    CatalogEntry,
    Effect,
    Fate,
    Probe,
    ToolFault,
    ToolOutcome,
    ToolRequest,
    ToolStatus,
)

PROBE_SECS = 10.0
"""How long a connector may take to find out what became of a call."""
GRACE_SECS = 5.0
"""How long we wait past a call's deadline for the host to say so itself."""
UNKNOWN = "indeterminate"
_UNSURE = frozenset({UNKNOWN, "connector_timeout"})
_UNASKED = Probe(fate=Fate.UNKNOWN)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a dispatched call."""

    status: ToolStatus
    value: Any = None
    fault: ToolFault | None = None
    usage_ms: float = 0.0
    encoded: bytes | None = None
    """The value as JSON, where it came as such."""


class Backend:
    """Dispatches calls that every gate has let through. Faults are answers, never exceptions."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        builtins: Builtins,
        settings: Settings,
        clock: Clock | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self._builtins = builtins
        self._timeout_secs = settings.tool_timeout_secs
        self._clock = clock or SystemClock()

    def limit_secs(self, entry: CatalogEntry) -> float:
        """How long a call of this tool is waited for, seconds."""
        return (entry.spec.timeout_secs or self._timeout_secs) + GRACE_SECS

    def now(self) -> datetime:
        """The time of the clock."""
        return self._clock.now()

    def request(self, ctx: CallContext, opened: OpenCall, now: datetime) -> ToolRequest:
        """A call of a connector as its session host gets it."""
        entry = opened.entry
        assert entry is not None
        assert entry.source_id is not None
        limit = entry.spec.timeout_secs or self._timeout_secs
        return ToolRequest(
            tool_call_id=opened.tool_call_id,
            org_id=ctx.org_id,
            source_id=entry.source_id,
            connector=entry.connector,
            tool=entry.spec.name,
            args=opened.call.args,
            effect=opened.effect,
            deadline=now + timedelta(seconds=limit),
            idempotency_key=_key(opened) if opened.effect.consequential else None,
        )

    def answer(self, opened: OpenCall, told: Told) -> Answer | None:
        """What a dispatcher told as an answer; None when ``conclude`` has to look into it."""
        if not isinstance(told, ToolOutcome):
            return None
        safe = _safe(opened)
        if not safe and told.error_code in _UNSURE:
            return None
        return _answer(told, safe=safe, usage_ms=told.usage_ms or _ms(opened.times.sent))

    async def execute(self, ctx: CallContext, opened: OpenCall) -> Answer:
        """Carry out one call and wait for it."""
        return await self.conclude(ctx, opened, await self._told(ctx, opened))

    async def conclude(self, ctx: CallContext, opened: OpenCall, told: Told) -> Answer:
        """The answer of a call by what came of its first attempt.

        A read, or a tool marked idempotent, is tried twice when its host is away. An effect whose
        answer was lost is asked about where the tool offers a probe. It is sent a second time,
        under the same key, only after the answer that it was not carried out.
        """
        safe, probe = _safe(opened), None
        if isinstance(told, ConnectorUnavailableError | OutcomeUnknownError):
            if isinstance(told, OutcomeUnknownError) and opened.effect.consequential:
                probe = await self.probe(ctx, opened)
            if probe is not None and probe.fate is Fate.DONE:
                return self._done(opened, probe)
            if safe or (probe is not None and probe.fate is Fate.NOT_DONE):
                told = await self._told(ctx, opened)
        outcome = told if isinstance(told, ToolOutcome) else _fault(opened, told, safe=safe)
        if outcome.error_code in _UNSURE and not safe and probe is None:
            probe = await self.probe(ctx, opened)
            if probe.fate is Fate.DONE:
                return self._done(opened, probe)
        return _answer(outcome, safe=safe, usage_ms=outcome.usage_ms or _ms(opened.times.sent))

    def _done(self, opened: OpenCall, probe: Probe) -> Answer:
        return Answer(ToolStatus.COMPLETED, probe.result, usage_ms=_ms(opened.times.sent))

    async def probe(self, ctx: CallContext, opened: OpenCall) -> Probe:
        """What became of a call whose answer was lost; ``unknown`` when nobody can say."""
        entry = opened.entry
        assert entry is not None
        if entry.source_id is None or not entry.spec.probe:
            return _UNASKED
        request = ToolRequest(
            tool_call_id=new_id(),
            org_id=ctx.org_id,
            source_id=entry.source_id,
            connector=entry.connector,
            tool=entry.spec.name,
            args=opened.call.args,
            effect=Effect.READ,
            deadline=self._clock.now() + timedelta(seconds=PROBE_SECS),
            idempotency_key=_key(opened),
            probe=True,
        )
        try:
            async with asyncio.timeout(PROBE_SECS + GRACE_SECS):
                try:
                    outcome = await self.dispatcher.call(request)
                except (ConnectorUnavailableError, OutcomeUnknownError):
                    outcome = await self.dispatcher.call(request)
            if outcome.ok:
                return Probe.model_validate(outcome.value)
            _log.warning("probe_failed", tool=entry.name, problem=outcome.error_message)
        except (AgentcyError, TimeoutError, ValidationError) as error:
            _log.warning("probe_failed", tool=entry.name, problem=str(error))
        return _UNASKED

    async def _told(self, ctx: CallContext, opened: OpenCall) -> Told:
        """One attempt; what it raises is told as well."""
        try:
            return await self._attempt(ctx, opened)
        except Exception as error:  # noqa: BLE001 - a fault of a tool is an answer
            return error

    async def _attempt(self, ctx: CallContext, opened: OpenCall) -> ToolOutcome:
        entry = opened.entry
        assert entry is not None
        if entry.source_id is None:
            async with asyncio.timeout(entry.spec.timeout_secs or self._timeout_secs):
                value = await self._builtins.call(ctx, entry, opened)
            return ToolOutcome(tool_call_id=opened.tool_call_id, ok=True, value=value)
        request = self.request(ctx, opened, self.now())
        try:
            async with asyncio.timeout(self.limit_secs(entry)):
                return await self.dispatcher.call(request)
        except (asyncio.CancelledError, TimeoutError):
            if not opened.effect.consequential:
                await asyncio.shield(self.dispatcher.abandon([request]))
            raise


def _safe(opened: OpenCall) -> bool:
    """Whether a call may be repeated whatever became of it."""
    assert opened.entry is not None
    return not opened.effect.consequential or opened.entry.spec.idempotent


def _key(opened: OpenCall) -> str:
    """The key that a connector sees; a call outside of a run has its id."""
    return opened.key or opened.tool_call_id.hex


def _ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _fault(opened: OpenCall, error: Exception, *, safe: bool) -> ToolOutcome:
    """What an attempt raised, as the outcome that it stands for."""
    transient = False
    if isinstance(error, OutcomeUnknownError | TimeoutError):
        code, message = UNKNOWN, str(error) or "no answer came in time"
    elif isinstance(error, AgentcyError):
        code, message, transient = error.code, error.message, error.transient
    else:
        assert opened.entry is not None
        name = opened.entry.name
        _log.error("tool_failed", tool=name, exc_info=error)
        code = "connector_error" if safe else UNKNOWN
        message = f"{name} failed: {type(error).__name__}"
    return ToolOutcome(
        tool_call_id=opened.tool_call_id,
        ok=False,
        error_code=code,
        error_message=message,
        transient=transient,
    )


def _answer(outcome: ToolOutcome, *, safe: bool, usage_ms: float) -> Answer:
    if outcome.ok:
        return Answer(ToolStatus.COMPLETED, outcome.value, None, usage_ms, outcome.encoded)
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
