"""The way from one dispatcher to one session host: natural batches.

A call is sent at once when nothing young is on its way; calls that arrive meanwhile join the next
exchange, up to ``batch_max``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from uuid import uuid4

import ray
from ray.exceptions import RayActorError, RayError

from agentcy_ray.connectors.calls import CANCELLED, Answer, Told, outcome, wire
from agentcy_ray.core.errors import OutcomeUnknownError
from agentcy_ray.core.tools import ToolRequest
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.wire import pack, unpack_reply

PARKED_AFTER_SECS = 0.002
"""An exchange that has not come back by now is parked on slow calls; a fresh one may go."""


class Waiting:
    """A call that waits for its answer."""

    __slots__ = ("_told", "done", "lane", "losses", "number", "request")

    def __init__(self, request: ToolRequest, told: Callable[[ToolRequest, Told], None]) -> None:
        self.request = request
        self._told = told
        self.done = False
        """Whether nobody waits for it any more."""
        self.lane: Lane | None = None
        self.number = -1
        """Number under which it was sent; negative before."""
        self.losses = 0
        """Hosts that died with it."""

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again after it was sent."""
        return self.request.probe or not self.request.effect.consequential

    def answer(self, answer: Answer) -> None:
        """Tell what came of it, unless that was told."""
        self.tell(outcome(self.request.tool_call_id, answer))

    def tell(self, told: Told) -> None:
        """Tell what came of it, unless that was told."""
        if not self.done:
            self.done = True
            self._told(self.request, told)

    def give_up(self) -> None:
        """Let nobody wait for it any more."""
        self.answer((0, None, CANCELLED, "the call was given up", False, 0.0))


class Router(Protocol):
    """Who knows the other lanes."""

    @property
    def version(self) -> int:
        """Version of the host set that it goes by."""
        ...

    def heard(self, version: int, names: tuple[str, ...] | None) -> None:
        """A host answered; with its set of hosts when that is newer than ours."""
        ...

    def travelled(self, calls: int) -> None:
        """So many calls were sent together."""
        ...

    def route(self, waiting: Waiting) -> None:
        """Send a call to the host that owns its source."""
        ...

    def away(self, lane: Lane, unsent: list[Waiting]) -> None:
        """A host does not answer; these calls of it may go elsewhere."""
        ...


class Lane:
    """The way to one host."""

    def __init__(self, host: str, batch_max: int, router: Router) -> None:
        self.host = host
        self._batch_max = batch_max
        self._router = router
        self._caller = uuid4().hex
        self._queue: deque[Waiting] = deque()
        self._sent: dict[int, Waiting] = {}
        self._cancels: list[int] = []
        self._exchanges = 0
        self._fresh: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._life = 0  # how often the host was lost: exchanges of a former life say nothing new
        self._number = 0
        self._actor: Any = None

    def submit(self, waiting: Waiting) -> None:
        """Send a call with the next exchange."""
        waiting.lane = self
        self._queue.append(waiting)
        if self._fresh is None:
            self._pump()

    def cancel(self, waiting: Waiting) -> None:
        """Tell the host that nobody waits for a read any more."""
        if waiting.number in self._sent and waiting.repeatable:
            del self._sent[waiting.number]
            self._cancels.append(waiting.number)
            self._pump()

    def _pump(self) -> None:
        """Start an exchange if there is a reason to and no young one is on its way."""
        if self._fresh is not None:
            return
        if not (self._queue or self._cancels or (self._sent and not self._exchanges)):
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._exchange())
        self._fresh = task
        self._tasks.add(task)
        self._exchanges += 1
        loop.call_later(PARKED_AFTER_SECS, self._ripen, task)
        task.add_done_callback(self._back)

    def _ripen(self, task: asyncio.Task[None]) -> None:
        if self._fresh is task:
            self._fresh = None
            self._pump()

    def _back(self, task: asyncio.Task[None]) -> None:
        self._exchanges -= 1
        self._tasks.discard(task)
        if self._fresh is task:
            self._fresh = None
        self._pump()

    async def _exchange(self) -> None:
        life, calls = self._life, list[Any]()
        queue, sent = self._queue, self._sent
        now = time.time()
        while queue and len(calls) < self._batch_max:
            waiting = queue.popleft()
            if not waiting.done:
                self._number += 1
                waiting.number = self._number
                sent[self._number] = waiting
                calls.append(wire(self._number, waiting.request, now))
        if calls:
            self._router.travelled(len(calls))
        cancels, self._cancels = self._cancels, []
        message = pack((self._caller, self._router.version, True, calls, cancels))
        try:
            if self._actor is None:
                self._actor = ray.get_actor(self.host, namespace=NAMESPACE)
        except ValueError:  # there is no such actor, so nothing was sent
            self._lost(life, [call[0] for call in calls])
            return
        try:
            reply = unpack_reply(await self._actor.exchange.remote(message))
        except RayActorError:
            self._lost(life, ())
            return
        except RayError as error:
            self._failed([call[0] for call in calls], str(error))
            return
        version, names, refused, answers = reply
        for answer in answers:
            waiting = self._sent.pop(answer[0], None)
            if waiting is not None:
                waiting.answer(answer)
        self._router.heard(version, names)
        for number in refused:
            waiting = self._sent.pop(number, None)
            if waiting is not None and not waiting.done:
                self._router.route(waiting)

    def _failed(self, numbers: Sequence[int], why: str) -> None:
        """The host failed at an exchange in a way that is not its death."""
        for number in numbers:
            waiting = self._sent.pop(number, None)
            if waiting is not None:
                waiting.tell(OutcomeUnknownError(f"the session host failed: {why}"))

    def _lost(self, life: int, unsent: Sequence[int]) -> None:
        """The host is gone, with every call that it had from us but for those ``unsent``."""
        if life != self._life:
            return
        self._life += 1
        self._actor = None
        self._cancels.clear()
        lost, self._sent = self._sent, {}
        again = [lost.pop(number) for number in unsent if number in lost]
        for waiting in lost.values():
            if waiting.done:
                continue
            waiting.losses += 1
            if not waiting.repeatable:
                waiting.tell(OutcomeUnknownError("the session host died before it answered"))
            elif waiting.losses > 1:
                text = "the session host died each time it executed this call"
                waiting.answer((0, None, "connector_error", text, True, 0.0))
            else:
                again.append(waiting)
        again += self._queue
        self._queue.clear()
        self._router.away(self, again)
