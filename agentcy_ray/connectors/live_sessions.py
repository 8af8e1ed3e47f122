"""Live sessions, one per source: built on first use, shared, closed when idle.

A session whose source failed is dropped and built anew, at first at once, then after 1, 2, 4 … 60
seconds. A session whose config was changed is replaced within ``FRESH_SECS``; whoever uses the old
one keeps it until done. Beyond ``max_sessions`` the one that is idle longest is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import structlog
from pydantic import BaseModel

from agentcy_ray.connectors.base import Connector, Session, SessionContext
from agentcy_ray.connectors.limits import Limits, Pace, SourceLimits
from agentcy_ray.connectors.owner import owned
from agentcy_ray.connectors.redaction import Redactor
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.secrets import secret_values
from agentcy_ray.connectors.source_records import Source
from agentcy_ray.core.errors import (
    AgentcyError,
    ConnectorError,
    ConnectorUnavailableError,
    EgressDeniedError,
    NotFoundError,
    SourceConfigError,
)

FRESH_SECS = 5.0
"""A config change is seen this much later at most."""
BACK_OFF_MAX_SECS = 60.0

ContextFactory = Callable[[Source], SessionContext]


class SourceReader(Protocol):
    """What sessions need of the store of sources."""

    @property
    def registry(self) -> Registry:
        """The connectors, and the surroundings of their sessions."""
        ...

    async def open_config(
        self, org_id: UUID, source_id: UUID
    ) -> tuple[Source, Connector, BaseModel]:
        """A source with its connector and its config, secrets opened."""
        ...

    async def version(self, org_id: UUID, source_id: UUID) -> int:
        """The present ``config_version``."""
        ...


@dataclass
class Held:
    """A session with its users."""

    session: Session
    redactor: Redactor
    version: int
    limits: Limits
    pace: Pace
    users: int = 0
    used_at: float = 0.0
    retired: bool = False


@dataclass
class _Slot:
    """What is known of one source: its session, or when the next one may be built."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: Held | None = None
    checked_at: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""


class Sessions:
    """Sessions by (organisation, source). Open one with ``session``; close all with ``close``."""

    def __init__(
        self,
        store: SourceReader,
        context_factory: ContextFactory | None = None,
        idle_secs: float = 600,
        *,
        max_sessions: int = 2000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._context = context_factory or self._own_context
        self._idle_secs = idle_secs
        self._max_sessions = max_sessions
        self._clock = clock
        self._slots: dict[tuple[UUID, UUID], _Slot] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._log = structlog.get_logger(__name__)

    @asynccontextmanager
    async def session(self, org_id: UUID, source_id: UUID) -> AsyncGenerator[Session]:
        """The session of a source, for as long as the block runs.

        Errors that leave the block hold no secret of the source.

        Raises:
            NotFoundError: no such source.
            SourceConfigError: its config is refused.
            ConnectorUnavailableError: it failed a moment ago; the message says when to come back.
        """
        held = await self.take(org_id, source_id)
        try:
            yield held.session
            self.succeeded(org_id, source_id)
        except AgentcyError as error:
            if isinstance(error, ConnectorUnavailableError):
                await self.drop(org_id, source_id, held, error.message)
            clean = held.redactor.error(error)
            if clean is error:
                raise
            raise clean from None
        finally:
            await self.give_back(held)

    async def check(self, org_id: UUID, source_id: UUID) -> list[dict[str, object]]:
        """Reach a source with the credentials at hand; its faults, none when all is well.

        A fault is ``{kind, message, errors}`` (product specification, §16).

        Raises:
            NotFoundError: no such source.
        """
        try:
            async with self.session(org_id, source_id) as session:
                await session.check()
        except (SourceConfigError, ConnectorError) as error:
            kind = error.details.get("kind", "unreachable")
            errors = error.details.get("errors", [])
            return [{"kind": kind, "message": error.message, "errors": errors}]
        return []

    async def take(self, org_id: UUID, source_id: UUID) -> Held:
        """The session of a source, with one user more; ``give_back`` must follow."""
        held = self.take_open(org_id, source_id)
        if held is not None:
            return held
        slot = self._slots.get((org_id, source_id))
        if slot is None:
            slot = self._slots[org_id, source_id] = _Slot()
        async with slot.lock:
            held = await self._current(org_id, source_id, slot)
            held.users += 1
        held.used_at = self._clock()
        return held

    def take_open(self, org_id: UUID, source_id: UUID) -> Held | None:
        """As ``take``, for a session that is open and whose config was looked at a moment ago."""
        slot = self._slots.get((org_id, source_id))
        if slot is None or slot.held is None:
            return None
        held, now = slot.held, self._clock()
        if now - slot.checked_at > FRESH_SECS:
            return None
        held.users += 1
        held.used_at = now
        return held

    async def give_back(self, held: Held) -> None:
        """One user less; the last one closes a session that was retired meanwhile."""
        held.users -= 1
        held.used_at = self._clock()
        if held.retired and not held.users:
            await self._close(held)

    async def drop(self, org_id: UUID, source_id: UUID, held: Held, reason: str) -> None:
        """Retire a session that failed and back off from its source."""
        slot = self._slots.get((org_id, source_id))
        if slot is not None and slot.held is held:
            self._fail(slot, held.redactor.text(reason))
            await self._retire(slot)

    def succeeded(self, org_id: UUID, source_id: UUID) -> None:
        """Forget former failures of a source: it answered."""
        slot = self._slots.get((org_id, source_id))
        if slot is not None:
            slot.failures = 0

    async def forget(self, source_id: UUID | str) -> None:
        """Retire the session of a source whose config changed, at once."""
        wanted = source_id if isinstance(source_id, UUID) else UUID(source_id)
        for key in [key for key in self._slots if key[1] == wanted]:
            await self._retire(self._slots.pop(key))

    async def sweep(self) -> int:
        """Close sessions that nobody used for ``idle_secs``; returns how many."""
        now, closed = self._clock(), 0
        for key, slot in list(self._slots.items()):
            held = slot.held
            if held and not held.users and now - held.used_at >= self._idle_secs:
                # In the source's name: a connector that blocks while it closes can be told.
                closing = asyncio.create_task(self._retire(slot), context=owned(key[1]))
                await closing
                closed += 1
            if slot.held is None and not slot.lock.locked() and now >= slot.retry_at:
                self._slots.pop(key, None)
        return closed

    async def close(self) -> None:
        """Close every session; those in use close when their users are done."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None
        slots, self._slots = list(self._slots.values()), {}
        for slot in slots:
            await self._retire(slot)

    # -- inside --------------------------------------------------------------------------------

    def _own_context(self, source: Source) -> SessionContext:
        return self._store.registry.context(source.org_id, source.id, pins=source.egress)

    async def _current(self, org_id: UUID, source_id: UUID, slot: _Slot) -> Held:
        """The session to use, built when there is none or the config changed."""
        if slot.held and self._clock() - slot.checked_at > FRESH_SECS:
            await self._compare(org_id, source_id, slot, slot.held.version)
        if slot.held:
            return slot.held
        wait = slot.retry_at - self._clock()
        if wait > 0:
            raise ConnectorUnavailableError(
                f"the source failed ({slot.reason}); it is tried again in {wait:.0f} s",
                retry_after_secs=round(wait, 1),
            )
        try:
            slot.held = await self._open(org_id, source_id)
        except (NotFoundError, SourceConfigError, EgressDeniedError):
            self._slots.pop((org_id, source_id), None)
            raise
        except AgentcyError as error:
            self._fail(slot, error.message)
            raise
        slot.checked_at = self._clock()
        await self._make_room(slot)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep_forever(), name="session-sweeper")
        return slot.held

    async def _compare(self, org_id: UUID, source_id: UUID, slot: _Slot, version: int) -> None:
        """Retire a session whose source has another config by now, or is gone."""
        try:
            present = await self._store.version(org_id, source_id)
        except NotFoundError:
            self._slots.pop((org_id, source_id), None)
            await self._retire(slot)
            raise
        if present != version:
            await self._retire(slot)
            slot.failures, slot.retry_at = 0, 0.0
        slot.checked_at = self._clock()

    async def _open(self, org_id: UUID, source_id: UUID) -> Held:
        source, connector, config = await self._store.open_config(org_id, source_id)
        redactor = Redactor(secret_values(config))
        context = self._context(source)
        try:
            context.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            session = await connector.open(config, context)
        except AgentcyError as error:
            raise redactor.error(error) from None
        except Exception as error:  # noqa: BLE001 - a connector may raise anything
            reason = redactor.text(f"{type(error).__name__}: {error}")
            raise ConnectorError(f"the {source.connector} connector failed: {reason}") from None
        said: object = getattr(config, "limits", None)
        limits = connector.spec.limits
        if isinstance(said, SourceLimits):
            limits = said.over(limits)
        return Held(
            session, redactor, source.config_version, limits, Pace(limits), used_at=self._clock()
        )

    async def _make_room(self, newest: _Slot) -> None:
        """Close the session that is idle longest when there are more than may be."""
        slots = [slot for slot in self._slots.values() if slot.held is not None]
        if len(slots) <= self._max_sessions:
            return
        idle = [slot for slot in slots if slot is not newest and slot.held and not slot.held.users]
        if idle:
            await self._retire(min(idle, key=lambda slot: slot.held.used_at if slot.held else 0.0))

    def _fail(self, slot: _Slot, reason: str) -> None:
        # The first failure is retried at once: most are a connection that went stale.
        wait = 0.0 if not slot.failures else min(BACK_OFF_MAX_SECS, 2.0 ** (slot.failures - 1))
        slot.failures += 1
        slot.retry_at = self._clock() + wait
        slot.reason = reason

    async def _retire(self, slot: _Slot) -> None:
        held, slot.held = slot.held, None
        if held is not None:
            held.retired = True
            if not held.users:
                await self._close(held)

    async def _close(self, held: Held) -> None:
        try:
            await held.session.close()
        except Exception as error:  # noqa: BLE001 - a connector may raise anything
            reason = held.redactor.text(f"{type(error).__name__}: {error}")
            self._log.warning("session_close_failed", reason=reason)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(max(0.05, self._idle_secs / 4))
            await self.sweep()
