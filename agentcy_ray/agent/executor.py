"""Executors: claim runs that wait, execute them, and hold on to them while they do.

A ring wakes an executor at once, a poll covers lost rings and runs whose owner has died. Claims are
made under ``FOR UPDATE SKIP LOCKED``, so any number of executors may run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from agentcy_ray.agent.control import RunControl, Stopped
from agentcy_ray.agent.loop import AgentLoop
from agentcy_ray.agent.run_records import Run
from agentcy_ray.agent.runs import QUEUED_CHANNEL, RunStore
from agentcy_ray.core.errors import LeaseLostError, StoreUnavailableError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.stores.bell import Bell, Ear

LEASE_SECS = 15.0
RENEW_SECS = 5.0
POLL_SECS = 2.0
CLAIM_AT_ONCE = 16
Standing = Callable[[Sequence[Principal]], Awaitable[list[bool]]]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Held:
    """A run in execution."""

    run: Run
    control: RunControl


class Executor:
    """Executes runs of all organisations, up to ``concurrency`` at a time.

    Args:
        runs: claims and leases.
        loop: what a claimed run is given to.
        bell: rung when a run is queued or cancelled.
        owner: name in the ``owner`` column, for people; the epoch is the fence.
        concurrency: runs held at a time; one that waits for a person counts.
        lease_secs: a run whose owner is silent for so long is taken over.
        renew_secs: how often leases are renewed.
        poll_secs: how often Postgres is looked at without a ring.
        metrics: of the process.
        standing: for each principal, whether they hold what they held; runs of those who do not
            are stopped when leases are renewed. None = nobody looks.
    """

    def __init__(
        self,
        runs: RunStore,
        loop: AgentLoop,
        bell: Bell,
        *,
        owner: str | None = None,
        concurrency: int = 100,
        lease_secs: float = LEASE_SECS,
        renew_secs: float = RENEW_SECS,
        poll_secs: float = POLL_SECS,
        metrics: Metrics | None = None,
        standing: Standing | None = None,
    ) -> None:
        self._runs = runs
        self._loop = loop
        self._bell = bell
        self._owner = owner or new_id().hex
        self._concurrency = concurrency
        self._lease_secs = lease_secs
        self._renew_secs = renew_secs
        self._poll_secs = poll_secs
        self._takeovers = (metrics or Metrics()).run_takeovers
        self._standing = standing
        self._held: dict[UUID, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> AgentLoop:
        """What a claimed run is given to."""
        return self._loop

    @property
    def held(self) -> tuple[UUID, ...]:
        """Runs in execution here."""
        return tuple(self._held)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then hand back what is under way.

        A hand-back lets a dispatched write end and record its receipt; everything else is left to
        the successor, who may begin at once.
        """
        async with self._bell.listen(QUEUED_CHANNEL) as ear:
            helpers = [
                asyncio.create_task(self._renew(), name="run-leases"),
                asyncio.create_task(_wake_on(stop, ear), name="executor-stop"),
            ]
            try:
                while not stop.is_set():
                    if not await self._claim(ear):
                        ring = await ear.next(self._poll_secs)
                        if ring is not None and "cancel" in ring:
                            self._cancel(UUID(ring["cancel"]))
            finally:
                for held in self._held.values():
                    held.control.stop("handover")
                if self._tasks:
                    await asyncio.wait(self._tasks)
                for helper in helpers:
                    helper.cancel()

    async def _claim(self, ear: Ear) -> bool:
        """Begin runs that wait; False when there is nothing to do now."""
        room = min(CLAIM_AT_ONCE, self._concurrency - len(self._held))
        if room <= 0:
            return False
        try:
            claimed = await self._runs.claim(self._owner, limit=room, lease_secs=self._lease_secs)
        except StoreUnavailableError as error:
            _log.warning("no_claims", reason=error.message)
            return False
        for run in claimed:
            if run.id in self._held:  # our own lease had lapsed; we are our successor
                self._held[run.id].control.stop("lost")
            if run.epoch > 1:
                self._takeovers.of(run.kind).inc()
            control = RunControl()
            task = asyncio.create_task(self._execute(run, control, ear), name=f"run-{run.id.hex}")
            task.add_done_callback(self._tasks.discard)
            self._tasks.add(task)
            self._held[run.id] = _Held(run, control)
        return bool(claimed)

    async def _execute(self, run: Run, control: RunControl, ear: Ear) -> None:
        log = _log.bind(run=run.id.hex, epoch=run.epoch)
        try:
            await self._loop.execute(run, control)
        except Stopped as stopped:
            if stopped.reason == "handover":
                with contextlib.suppress(StoreUnavailableError):  # the lease lapses by itself
                    await self._runs.release(run.key)
            log.info("run_left", reason=stopped.reason)
        except (LeaseLostError, StoreUnavailableError) as error:
            log.warning("run_left", reason=error.code)
        except Exception:
            log.exception("run_left", reason="internal")
        finally:
            held = self._held.get(run.id)
            if held is not None and held.control is control:  # else it is our successor's
                del self._held[run.id]
            ear.hear(None)  # there is room for another

    def _cancel(self, run_id: UUID) -> None:
        held = self._held.get(run_id)
        if held is not None:
            held.control.stop("cancelled")

    async def _renew(self) -> None:
        """Renew leases, and stop what is no longer ours or was cancelled without a ring."""
        clock = asyncio.get_running_loop().time
        renewed_at = clock()
        while True:
            await asyncio.sleep(self._renew_secs)
            keys = [held.run.key for held in self._held.values()]
            try:
                ours = await self._runs.renew(keys, lease_secs=self._lease_secs) if keys else {}
                renewed_at = clock()
            except StoreUnavailableError:
                if clock() - renewed_at < self._lease_secs:
                    continue
                ours = {}  # by now somebody else may hold them
            for key in keys:
                held = self._held.get(key.run_id)
                if held is None or held.run.epoch != key.epoch:
                    continue
                if key.run_id not in ours:
                    held.control.stop("lost")
                elif ours[key.run_id]:
                    held.control.stop("cancelled")
            await self._withdraw()

    async def _withdraw(self) -> None:
        """Stop runs whose people hold less than when they began them."""
        held = list(self._held.values())
        if self._standing is None or not held:
            return
        try:
            stand = await self._standing([one.run.principal for one in held])
        except StoreUnavailableError:
            return  # the next look comes soon, and without leases they stop anyway
        for one, stands in zip(held, stand, strict=True):
            if not stands:
                one.control.stop("withdrawn")


async def _wake_on(stop: asyncio.Event, ear: Ear) -> None:
    await stop.wait()
    ear.hear(None)
