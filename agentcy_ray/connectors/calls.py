"""A tool call inside the process that executes it, and the answer that it leaves with.

``ToolRequest`` and ``ToolOutcome`` are what callers see. In between, where thousands of calls a
second pass, a call is an ``Order`` and its answer a plain tuple that pickles in a fraction of a
microsecond; the value stays the JSON text that bounding and redaction made of it.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from agentcy_ray.core.errors import ConnectorUnavailableError, OutcomeUnknownError
from agentcy_ray.core.tools import ToolOutcome, ToolRequest

UNSENT = "unavailable"
"""Error code of a call that never reached the source: repeating it is safe."""
UNKNOWN = "indeterminate"
"""Error code of a write that was sent and did not answer in time; it may still take effect."""
CANCELLED = "cancelled"
"""Error code of a call that its caller gave up."""

Answer = tuple[int, bytes | None, str | None, str | None, bool, float]
"""Number of the order, JSON of the value, error code, error message, transient, milliseconds."""

Told = ToolOutcome | Exception
"""What a dispatcher tells of a call. ``ConnectorUnavailableError``: it was never sent, so repeating
it is safe. ``OutcomeUnknownError``: it was sent and no answer came. Any other error is a bug."""

Wire = tuple[int, bytes, bytes, str, dict[str, Any], bool, str | None, bool, float]
"""An order between processes: number, organisation, source, tool, arguments, consequential,
idempotency key, probe, and the seconds that are left, which no two clocks need agree on."""


@lru_cache(8192)
def _uuid(raw: bytes) -> UUID:
    """The same few sources are called again and again; making an id anew costs two microseconds."""
    return UUID(bytes=raw)


class Order:
    """One call on its way."""

    __slots__ = (
        "args", "consequential", "deadline", "done", "home", "key", "moves", "number", "org_id",
        "probe", "reply", "sent", "source_id", "started", "stopped", "tool", "worker",
    )  # fmt: skip

    def __init__(self, wire: Wire, reply: Callable[[Order, Answer], None]) -> None:
        number, org, source, tool, args, consequential, key, probe, left = wire
        self.number = number
        self.org_id = _uuid(org)
        self.source_id = _uuid(source)
        self.tool = tool
        self.args = args
        self.consequential = consequential
        self.key = key
        self.probe = probe
        self.started = time.monotonic()
        self.deadline = self.started + left
        self.reply = reply
        self.sent = False
        """Handed to the session: from here on a write may have its effect."""
        self.done = False
        """Answered, or no longer waited for."""
        self.home: object = None
        """The loop that it was handed to; for whoever hands it over."""
        self.moves = 0
        """How often another event loop took it over."""
        self.stopped = False
        """Its worker was cancelled for it."""
        self.worker: asyncio.Task[None] | None = None

    def again(self) -> Order:
        """The same call, to be carried out elsewhere; nobody waits for this one any more."""
        self.done = True
        twin = object.__new__(Order)
        for name in Order.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.sent = twin.done = twin.stopped = False
        twin.worker = None
        twin.moves = self.moves + 1
        return twin

    def answer(self, encoded: bytes) -> None:
        """Answer with the JSON of a value."""
        self._reply(encoded, None, None, False)

    def fault(self, code: str, message: str, transient: bool = False) -> None:
        """Answer with a fault."""
        self._reply(None, code, message, transient)

    def _reply(
        self, encoded: bytes | None, code: str | None, message: str | None, transient: bool
    ) -> None:
        if not self.done:
            self.done = True
            millis = round((time.monotonic() - self.started) * 1000, 3)
            self.reply(self, (self.number, encoded, code, message, transient, millis))


class Caller(ABC):
    """The single call, for dispatchers that send many."""

    @abstractmethod
    async def send(
        self, requests: Sequence[ToolRequest], told: Callable[[ToolRequest, Told], None]
    ) -> None:
        """Execute calls; ``told`` hears what came of each."""

    @abstractmethod
    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        """Stop waiting for reads in flight."""

    async def call(self, request: ToolRequest) -> ToolOutcome:
        """Execute one call; a caller that is cancelled leaves a read abandoned.

        Raises:
            ConnectorUnavailableError: the call was never sent; repeating it is safe.
            OutcomeUnknownError: it was sent and no answer came; it may have had its effect.
        """
        answered: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        await self.send(
            [request], lambda _, told: None if answered.done() else answered.set_result(told)
        )
        try:
            told = await answered
        except asyncio.CancelledError:
            await self.abandon([request])
            raise
        if isinstance(told, ToolOutcome):
            return told
        raise told


def wire(number: int, request: ToolRequest, now: float | None = None) -> Wire:
    """A request as it travels; ``now`` is the time of the clock in seconds, read when None."""
    now = time.time() if now is None else now
    return (
        number, request.org_id.bytes, request.source_id.bytes, request.tool, request.args,
        request.effect.consequential and not request.probe, request.idempotency_key, request.probe,
        request.deadline.timestamp() - now,
    )  # fmt: skip


def outcome(tool_call_id: UUID, answer: Answer) -> Told:
    """An answer as the dispatcher protocol wants it: two of its faults are errors."""
    _, encoded, code, message, _, millis = answer
    if code is None:
        value = None if encoded is None else orjson.loads(encoded)
        return ToolOutcome(tool_call_id, True, value, usage_ms=millis, encoded=encoded)
    if code == UNSENT:
        return ConnectorUnavailableError(message or "the call was not sent; try again in a moment")
    if code == UNKNOWN:
        return OutcomeUnknownError(message or "the call was sent and did not answer")
    return failed(tool_call_id, answer)


def failed(tool_call_id: UUID, answer: Answer) -> ToolOutcome:
    """A fault as an outcome, whatever its code."""
    _, _, code, message, transient, millis = answer
    return ToolOutcome(
        tool_call_id=tool_call_id,
        ok=False,
        error_code=code,
        error_message=message,
        transient=transient,
        usage_ms=millis,
    )
