"""Executing tools on sessions: deadlines, limits, bounded and clean results, faults as answers."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, cast
from uuid import UUID

from agentcy_ray.connectors.base import ProbingSession, Session
from agentcy_ray.connectors.calls import (
    CANCELLED,
    UNKNOWN,
    UNSENT,
    Answer,
    Order,
    failed,
    outcome,
    wire,
)
from agentcy_ray.connectors.live_sessions import ContextFactory, Held, Sessions, SourceReader
from agentcy_ray.connectors.records import json_bytes
from agentcy_ray.connectors.turns import Line
from agentcy_ray.core.errors import (
    AgentcyError,
    ConnectorError,
    ConnectorTimeoutError,
    ConnectorUnavailableError,
    TooLargeError,
)
from agentcy_ray.core.tools import ToolOutcome, ToolRequest

_TOOL_CODES = frozenset({
    "invalid_args", "tool_not_found", "connector_error", "connector_timeout", "egress_denied",
    "result_too_large",
})  # fmt: skip
_CLOSE_SECS = 5.0


class SessionPool(Sessions):
    """Sessions, and the tools that run on them. Belongs to one event loop.

    A read is stopped at its deadline, and when its caller gives it up. A write that was sent is
    never stopped: past the deadline it is ``indeterminate`` and goes on by itself.
    """

    def __init__(
        self,
        store: SourceReader,
        context_factory: ContextFactory | None = None,
        idle_secs: float = 600,
        *,
        max_sessions: int = 2000,
        max_result_bytes: int = 32 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(store, context_factory, idle_secs, max_sessions=max_sessions, clock=clock)
        self._max_result_bytes = max_result_bytes
        self._lines: dict[tuple[UUID, UUID], Line] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self.open: set[Order] = set()
        """Orders that wait or run. Other threads may copy it."""
        self.sending = threading.Lock()
        """Held to decide whether a write is sent from here, or taken over by another thread."""

    def submit_all(self, orders: Iterable[Order]) -> None:
        """Start orders in turn; each is answered through its ``reply``, on this loop."""
        for order in orders:
            self.submit(order)

    def submit(self, order: Order) -> None:
        """Start one order."""
        if order.done:  # answered, or taken over, before it came here
            return
        if order.deadline <= time.monotonic():
            order.fault(UNSENT, "the deadline had passed before the call was sent", True)
            return
        key = order.org_id, order.source_id
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(order.source_id, self._run, self.open.discard)
        self.open.add(order)
        if order.deadline < self._alarm_at:
            self._set_alarm(order.deadline)
        line.join(order)

    def abandon(self, order: Order) -> None:
        """Give a call up; a write that was sent goes on, and is answered."""
        if not (order.consequential and order.sent):
            self._stop(order, CANCELLED, "the call was given up")

    async def call(self, request: ToolRequest) -> ToolOutcome:
        """Execute one tool. Every fault comes back as an outcome; nothing is raised."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        order = Order(wire(0, request), lambda _, answer: _resolve(answered, answer))
        self.submit(order)
        try:
            answer = await answered
        except asyncio.CancelledError:
            self.abandon(order)
            raise
        told = outcome(request.tool_call_id, answer)
        return told if isinstance(told, ToolOutcome) else failed(request.tool_call_id, answer)

    async def sweep(self) -> int:
        """Close idle sessions, forget empty lines; returns how many sessions it closed."""
        closed = await super().sweep()
        self._lines = {key: line for key, line in self._lines.items() if not line.idle}
        return closed

    async def keep_only(self, source_id: UUID | None) -> None:
        """Retire the sessions of all other sources: their calls go elsewhere from now on."""
        for other in {key[1] for key in self._slots if key[1] != source_id}:
            await self.forget(other)

    async def close(self) -> None:
        """Close every session, after giving writes in flight a moment to end."""
        lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            for order in line.leave():
                self.open.discard(order)
                order.fault(UNSENT, "the sessions of this process are being closed", True)
        sent = {order.worker for order in self.open if order.consequential and order.sent}
        writes = {worker for worker in sent if worker is not None}
        others = {worker for line in lines for worker in line.workers} - writes
        for worker in others:
            worker.cancel()
        if writes | others:
            await asyncio.wait(writes | others, timeout=_CLOSE_SECS)
        if self._alarm is not None:
            self._alarm.cancel()
        await super().close()

    # -- one call ------------------------------------------------------------------------------

    async def _run(self, line: Line, order: Order) -> None:
        org_id, source_id = order.org_id, order.source_id
        try:
            held = self.take_open(org_id, source_id) or await self.take(org_id, source_id)
        except AgentcyError as error:
            code = UNSENT if error.transient else "connector_error"
            order.fault(code, error.message, error.transient)
            return
        except Exception as error:  # noqa: BLE001 - an answer is owed whatever went wrong
            order.fault(UNSENT, f"no session could be opened: {type(error).__name__}", True)
            return
        line.limit = held.limits.concurrency
        try:
            if await self._admitted(held, order):
                await self._execute(held, order)
        finally:
            await self.give_back(held)

    async def _admitted(self, held: Held, order: Order) -> bool:
        """Wait for the source's pace, then mark the order as sent; False when it is not to be."""
        if not held.pace.free:
            wait = held.pace.reserve(time.monotonic(), order.deadline)
            if wait is None:
                order.fault(
                    UNSENT,
                    f"the source takes {held.limits.per_second:g} calls a second and has more "
                    "waiting than fit before the deadline; call it less often",
                    True,
                )
                return False
            if wait:
                await asyncio.sleep(wait)
        if not order.consequential:
            order.sent = True
            return not order.done
        with self.sending:
            order.sent = not order.done
        return order.sent

    async def _execute(self, held: Held, order: Order) -> None:
        org_id, source_id, say = order.org_id, order.source_id, held.redactor.text
        try:
            encoded = self._bounded(await _value(held.session, order))
        except TimeoutError:
            error: AgentcyError = ConnectorTimeoutError("the source did not answer in time")
        except AgentcyError as known:
            error = known
            if isinstance(known, ConnectorUnavailableError):
                await self.drop(org_id, source_id, held, known.message)
        except (Exception, SystemExit) as unknown:  # noqa: BLE001 - a connector may raise anything
            error = ConnectorError(f"the connector failed: {type(unknown).__name__}: {unknown}")
            await self.drop(org_id, source_id, held, error.message)
        else:
            self.succeeded(org_id, source_id)
            order.answer(held.redactor.text_of_json(encoded))
            return
        code = error.code if error.code in _TOOL_CODES else "connector_error"
        order.fault(code, say(error.message), error.transient)

    def _bounded(self, value: Any) -> bytes:
        encoded = json_bytes(value)
        if len(encoded) > self._max_result_bytes:
            raise TooLargeError(
                f"the result has {len(encoded)} bytes, the limit is {self._max_result_bytes};"
                " ask for less",
                code="result_too_large",
            )
        return encoded

    # -- deadlines -----------------------------------------------------------------------------

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        """Answer whoever is late; one timer serves all calls, since few are ever late."""
        self._alarm_at, now = math.inf, time.monotonic()
        waiting = [order for order in self.open if not order.done]
        for order in waiting:
            if order.deadline <= now:
                self._late(order)
        left = [order.deadline for order in waiting if not order.done]
        if left:
            self._set_alarm(min(left))

    def _late(self, order: Order) -> None:
        if not order.sent:
            self._stop(order, UNSENT, "the source was not ready before the deadline")
        elif order.consequential:
            order.fault(UNKNOWN, LATE_WRITE)
        else:
            self._stop(order, "connector_timeout", "the source did not answer in time")

    def _stop(self, order: Order, code: str, message: str) -> None:
        if order.done:
            return
        order.fault(code, message, True)
        if order.worker is None:
            self.open.discard(order)
        else:
            order.stopped = True
            order.worker.cancel()


LATE_WRITE = "the call was sent and did not answer in time; it may still take effect"


async def _value(session: Session, order: Order) -> Any:
    """What the session answers: a tool's JSON value, or a ``Probe`` in its JSON form."""
    if not order.probe:
        return await session.call(order.tool, order.args, idempotency_key=order.key)
    assert order.key is not None
    asked = cast(ProbingSession, session)  # its spec offers it, else nobody asks
    probe = await asked.probe(order.tool, order.args, idempotency_key=order.key)
    return probe.model_dump(mode="json")


def _resolve(answered: asyncio.Future[Answer], answer: Answer) -> None:
    if not answered.done():
        answered.set_result(answer)
