"""Executing tools on sessions: deadlines, bounded and clean results, faults as outcomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from agentcy_ray.connectors.base import ProbingSession, Session
from agentcy_ray.connectors.live_sessions import ContextFactory, Held, Sessions
from agentcy_ray.connectors.records import json_bytes
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.errors import (
    AgentcyError,
    ConnectorError,
    ConnectorTimeoutError,
    ConnectorUnavailableError,
    TooLargeError,
)
from agentcy_ray.core.tools import ToolOutcome, ToolRequest

UNSENT = "unavailable"
"""Error code of a call that never reached the source: repeating it is safe."""
UNKNOWN = "indeterminate"
"""Error code of a write that was sent and did not answer in time; it may still take effect."""

_TOOL_CODES = frozenset({
    "invalid_args", "tool_not_found", "connector_error", "connector_timeout", "egress_denied",
    "result_too_large",
})  # fmt: skip
_CLOSE_SECS = 5.0


class SessionPool(Sessions):
    """Sessions, and the tools that run on them. What a session host is made of."""

    def __init__(
        self,
        store: SourceStore,
        context_factory: ContextFactory | None = None,
        idle_secs: float = 600,
        *,
        max_result_bytes: int = 32 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(store, context_factory, idle_secs, clock=clock)
        self._max_result_bytes = max_result_bytes
        self._writes: set[asyncio.Task[ToolOutcome]] = set()

    async def call(self, request: ToolRequest) -> ToolOutcome:
        """Execute one tool. Every fault comes back as an outcome; nothing is raised.

        A read is stopped at its deadline, and when the caller is cancelled. A write that was sent
        is never stopped: past the deadline it is ``indeterminate`` and goes on by itself.
        """
        left = (request.deadline - datetime.now(UTC)).total_seconds()
        call = _Call(self, request, self._max_result_bytes)
        if left <= 0:
            return call.fault(UNSENT, "the deadline had passed before the call was sent", True)
        if not request.effect.consequential:
            try:
                async with asyncio.timeout(left):
                    return await call.run()
            except TimeoutError:
                return call.late()
        task = asyncio.create_task(call.run())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        try:
            await asyncio.wait({task}, timeout=left)
        finally:
            if not call.sent:
                task.cancel()
        return task.result() if task.done() else call.late()

    async def close(self) -> None:
        """Close every session, after giving writes in flight a moment to end."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=_CLOSE_SECS)
        await super().close()


class _Call:
    """One call on its way."""

    def __init__(self, pool: SessionPool, request: ToolRequest, max_bytes: int) -> None:
        self._pool = pool
        self._request = request
        self._max_bytes = max_bytes
        self._started = time.perf_counter()
        self.sent = False

    async def run(self) -> ToolOutcome:
        org_id, source_id = self._request.org_id, self._request.source_id
        try:
            held = await self._pool.take(org_id, source_id)
        except AgentcyError as error:
            code = UNSENT if error.transient else "connector_error"
            return self.fault(code, error.message, error.transient)
        except Exception as error:  # noqa: BLE001 - an outcome is owed whatever went wrong
            return self.fault(UNSENT, f"no session could be opened: {type(error).__name__}", True)
        try:
            return await self._on(held, org_id, source_id)
        finally:
            await self._pool.give_back(held)

    async def _on(self, held: Held, org_id: UUID, source_id: UUID) -> ToolOutcome:
        request, say = self._request, held.redactor.text
        self.sent = True
        try:
            value = await _value(held.session, request)
            result = self._bounded(held, value)
        except TimeoutError:
            error: AgentcyError = ConnectorTimeoutError("the source did not answer in time")
        except AgentcyError as known:
            error = known
            if isinstance(known, ConnectorUnavailableError):
                await self._pool.drop(org_id, source_id, held, known.message)
        except Exception as unknown:  # noqa: BLE001 - a connector may raise anything
            error = ConnectorError(f"the connector failed: {type(unknown).__name__}: {unknown}")
            await self._pool.drop(org_id, source_id, held, error.message)
        else:
            self._pool.succeeded(org_id, source_id)
            return ToolOutcome(
                tool_call_id=request.tool_call_id, ok=True, value=result, usage_ms=self._ms()
            )
        code = error.code if error.code in _TOOL_CODES else "connector_error"
        return self.fault(code, say(error.message), error.transient)

    def late(self) -> ToolOutcome:
        """The deadline came first."""
        if not self.sent:
            return self.fault(UNSENT, "the source was not ready before the deadline", True)
        if self._request.effect.consequential:
            return self.fault(
                UNKNOWN, "the call was sent and did not answer in time; it may still take effect"
            )
        return self.fault("connector_timeout", "the source did not answer in time", True)

    def fault(self, code: str, message: str, transient: bool = False) -> ToolOutcome:
        return ToolOutcome(
            tool_call_id=self._request.tool_call_id,
            ok=False,
            error_code=code,
            error_message=message,
            transient=transient,
            usage_ms=self._ms(),
        )

    def _bounded(self, held: Held, value: Any) -> Any:
        encoded = json_bytes(value)
        if len(encoded) > self._max_bytes:
            raise TooLargeError(
                f"the result has {len(encoded)} bytes, the limit is {self._max_bytes};"
                " ask for less",
                code="result_too_large",
            )
        return held.redactor.json(encoded)

    def _ms(self) -> float:
        return round((time.perf_counter() - self._started) * 1000, 3)


async def _value(session: Session, request: ToolRequest) -> Any:
    """What the session answers: a tool's JSON value, or a ``Probe`` in its JSON form."""
    key = request.idempotency_key
    if not request.probe:
        return await session.call(request.tool, request.args, idempotency_key=key)
    assert key is not None
    asked = cast(ProbingSession, session)  # its spec offers it, else nobody asks
    probe = await asked.probe(request.tool, request.args, idempotency_key=key)
    return probe.model_dump(mode="json")
