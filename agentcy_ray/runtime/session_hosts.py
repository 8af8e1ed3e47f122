"""Session hosts: actors that hold connector sessions and execute tool calls.

One remote call per tool call would cost more than most tools do. A dispatcher therefore talks to a
host by *exchanges*: it hands over the calls that wait and takes the answers that are ready. An
exchange with nothing ready is parked at the host until something is, or until the same caller's
next exchange arrives; so a slow tool delays nobody, and under load one round trip carries up to
``batch_max`` calls.

Credentials are opened in this process, when a session is, and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from agentcy_ray.connectors.base import Connector
from agentcy_ray.connectors.calls import UNSENT
from agentcy_ray.connectors.live_sessions import SourceReader
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.connectors.source_records import Source
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime.cluster_config.parts import SessionHosts
from agentcy_ray.runtime.host_desk import Desk
from agentcy_ray.runtime.host_set import HostLoad, HostSet
from agentcy_ray.runtime.wire import pack, unpack_exchange

OpenSources = Callable[[Settings], Awaitable[SourceReader]]


class SessionHost:
    """Actor class. Holds the sessions of the sources that hash to it."""

    def __init__(
        self, name: str, part: SessionHosts, open_sources: OpenSources | None = None
    ) -> None:
        self._name = name
        self._part = part
        self._open_sources = open_sources or _open_sources
        self._opening: asyncio.Task[Desk] | None = None
        self._hosts = HostSet(0, ())

    async def exchange(self, message: bytes) -> bytes:
        """Start calls; return answers that are ready for the caller (see the module)."""
        caller, version, wait, calls, cancels = unpack_exchange(message)
        try:
            desk = await self._desk()
        except AgentcyError as error:
            text = f"the session host cannot open its stores: {error.message}"
            return pack((
                version,
                None,
                [],
                [(call[0], None, UNSENT, text, True, 0.0) for call in calls],
            ))
        newer, refused, answers = await desk.exchange(caller, version, wait, calls, cancels)
        if newer is None:
            return pack((version, None, refused, answers))
        return pack((newer.version, newer.names, refused, answers))

    async def tell(self, hosts: HostSet) -> HostLoad:
        """Take the set of hosts from the foreman; how loaded this one is."""
        self._hosts = hosts
        if self._opening is None or not self._opening.done() or self._opening.exception():
            return HostLoad(0, 0, 0, os.getpid())
        return self._opening.result().learn(hosts)

    async def check_source(self, org_id: UUID, source_id: UUID) -> AgentcyError | None:
        """Reach a source with its credentials; the fault comes back as a value."""
        try:
            return await (await self._desk()).check(org_id, source_id)
        except AgentcyError as error:
            return error

    async def ping(self) -> str:
        """Its name; answers while it is alive."""
        return self._name

    async def _desk(self) -> Desk:
        """The desk; opened once, by whoever asks first."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Desk:
        settings = Settings.load()
        home = asyncio.get_running_loop()
        reader = SourcesOf(await self._open_sources(settings), home)

        def make_pool() -> SessionPool:
            return SessionPool(
                reader,
                idle_secs=self._part.session_idle_secs,
                max_sessions=self._part.sessions_per_host,
                max_result_bytes=settings.tool_max_result_bytes,
            )

        desk = Desk(self._name, make_pool)
        desk.learn(self._hosts)
        return desk


async def _open_sources(settings: Settings) -> SourceReader:
    from agentcy_ray.runtime.parts import open_sources

    return await open_sources(settings)


class SourcesOf:
    """The store of sources for other event loops than the one that its connections belong to."""

    def __init__(self, reader: SourceReader, home: asyncio.AbstractEventLoop) -> None:
        self._reader = reader
        self._home = home

    @property
    def registry(self) -> Registry:
        """The connectors."""
        return self._reader.registry

    async def open_config(
        self, org_id: UUID, source_id: UUID
    ) -> tuple[Source, Connector, BaseModel]:
        """As ``SourceStore.open_config``."""
        return await self._there(self._reader.open_config(org_id, source_id))

    async def version(self, org_id: UUID, source_id: UUID) -> int:
        """As ``SourceStore.version``."""
        return await self._there(self._reader.version(org_id, source_id))

    async def _there(self, work: Any) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._home))
