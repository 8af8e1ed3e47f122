"""The dispatcher of a cluster: calls travel to session hosts in natural batches.

A call is sent at once when nothing is on its way to its host; calls that arrive meanwhile join the
next exchange. A source stays on the host that wins its rendezvous hash, so adding a host moves few
sources (Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any
from uuid import UUID, uuid4

import ray
from ray.exceptions import RayActorError, RayError

from agentcy_ray.connectors.local_dispatch import settle
from agentcy_ray.core.errors import ConnectorUnavailableError, OutcomeUnknownError
from agentcy_ray.core.tools import ToolOutcome, ToolRequest
from agentcy_ray.runtime.cluster import NAMESPACE

PARKED_AFTER_SECS = 0.002
"""An exchange that has not come back by now is parked on slow calls; a fresh one may go."""

Waiting = tuple[ToolRequest, "asyncio.Future[ToolOutcome]"]


def choose_host(source_id: UUID, hosts: Sequence[str]) -> str:
    """The host of a source: the highest hash of (source, host)."""
    return max(
        hosts,
        key=lambda host: blake2b(host.encode(), key=source_id.bytes, digest_size=8).digest(),
    )


class _Lane:
    """The way to one host."""

    def __init__(self, host: str, batch_max: int) -> None:
        self._host = host
        self._batch_max = batch_max
        self._caller = uuid4().hex
        self._queue: list[Waiting] = []
        self._sent: dict[UUID, asyncio.Future[ToolOutcome]] = {}
        self._exchanges: set[asyncio.Task[None]] = set()
        self._fresh: asyncio.Task[None] | None = None
        self._actor: Any = None

    def submit(self, request: ToolRequest) -> asyncio.Future[ToolOutcome]:
        future: asyncio.Future[ToolOutcome] = asyncio.get_running_loop().create_future()
        self._queue.append((request, future))
        self._pump()
        return future

    def _pump(self) -> None:
        """Start an exchange if there is a reason to and no young one is on its way."""
        if self._fresh is not None or not (self._queue or (self._sent and not self._exchanges)):
            return
        batch, self._queue = self._queue[: self._batch_max], self._queue[self._batch_max :]
        task = asyncio.create_task(self._exchange(batch))
        self._fresh = task
        self._exchanges.add(task)
        asyncio.get_running_loop().call_later(PARKED_AFTER_SECS, self._ripen, task)
        task.add_done_callback(self._back)

    def _ripen(self, task: asyncio.Task[None]) -> None:
        if self._fresh is task:
            self._fresh = None
            self._pump()

    def _back(self, task: asyncio.Task[None]) -> None:
        self._exchanges.discard(task)
        if self._fresh is task:
            self._fresh = None
        self._pump()

    async def _exchange(self, batch: list[Waiting]) -> None:
        for request, future in batch:
            self._sent[request.tool_call_id] = future
        try:
            if self._actor is None:
                self._actor = ray.get_actor(self._host, namespace=NAMESPACE)
        except ValueError:
            self._fail(
                batch, lambda: ConnectorUnavailableError(
                    f"session host {self._host!r} is not up; `agentcy status` shows the parts",
                ),
            )  # fmt: skip
            return
        try:
            requests = [request for request, _ in batch]
            outcomes = await self._actor.exchange.remote(self._caller, requests, True)
        except RayActorError:
            # The host died with every call that it had from us; which of them took effect is open.
            self._actor = None
            self._fail(None, _host_died)
            return
        except RayError as error:
            text = str(error)
            self._fail(batch, lambda: OutcomeUnknownError(f"the session host failed: {text}"))
            return
        for outcome in outcomes:
            future = self._sent.pop(outcome.tool_call_id, None)
            if future is not None and not future.done():
                future.set_result(outcome)

    def _fail(self, batch: list[Waiting] | None, error: Any) -> None:
        ids = list(self._sent) if batch is None else [r.tool_call_id for r, _ in batch]
        for call_id in ids:
            future = self._sent.pop(call_id, None)
            if future is not None and not future.done():
                future.set_exception(error())

    async def abandon(self, call_ids: Sequence[UUID]) -> None:
        mine = [call_id.hex for call_id in call_ids if call_id in self._sent]
        if mine and self._actor is not None:
            await self._actor.abandon.remote(mine)
        for call_id in call_ids:
            future = self._sent.pop(call_id, None)
            if future is not None and not future.done():
                future.cancel()


def _host_died() -> OutcomeUnknownError:
    return OutcomeUnknownError("the session host died before it answered; reads are repeated")


class RayDispatcher:
    """Implements the dispatcher protocol of the agent floor over session hosts."""

    def __init__(self, hosts: Sequence[str], batch_max: int) -> None:
        self._hosts = tuple(hosts)
        self._lanes = {host: _Lane(host, batch_max) for host in hosts}

    async def call(self, request: ToolRequest) -> ToolOutcome:
        """Execute one call on the host of its source.

        Raises:
            ConnectorUnavailableError: the host is not up; nothing was sent.
            OutcomeUnknownError: the host died with the call in flight.
        """
        lane = self._lanes[choose_host(request.source_id, self._hosts)]
        return settle(await lane.submit(request))

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        """Stop waiting for reads in flight."""
        for host in {choose_host(call.source_id, self._hosts) for call in calls}:
            await self._lanes[host].abandon([call.tool_call_id for call in calls])

    async def check_source(self, org_id: UUID, source_id: UUID) -> None:
        """Reach a source with its credentials, on the host that owns it.

        Raises:
            SourceConfigError: it does not work as configured.
            ConnectorUnavailableError: the host is not up.
        """
        name = choose_host(source_id, self._hosts)
        try:
            host: Any = ray.get_actor(name, namespace=NAMESPACE)
            fault = await host.check_source.remote(org_id, source_id)
        except (RayError, ValueError) as error:
            raise ConnectorUnavailableError(
                f"session host {name!r} does not answer; try again in a moment"
            ) from error
        if fault is not None:
            raise fault

    async def close(self) -> None:
        """Nothing to give back: sessions belong to the hosts."""
