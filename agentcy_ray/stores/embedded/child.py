"""Keeps one server running: starts it, watches it, starts it again."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from agentcy_ray.core.errors import (
    AgentcyError,
    ConfigError,
    StorageFullError,
    StoreUnavailableError,
)
from agentcy_ray.stores.embedded import ports
from agentcy_ray.stores.embedded.layout import open_log, tail
from agentcy_ray.stores.embedded.processes import (
    POLL_SECS,
    Identity,
    end_with_parent,
    identify,
    stop,
)
from agentcy_ray.stores.embedded.record import Fault, ServerRecord, ServerState
from agentcy_ray.stores.embedded.server import Server

FIRST_TRIES = 3
"""Starts that may fail before a server that was never well is given up."""
BACK_OFF_SECS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_SECS = 10.0
"""A server that was well for so long has its failures forgotten."""
HEALTH_SECS = 2.0
MISSED_PROBES = 12
"""Failed probes in a row (each bounded to 5 s) after which a hung server is killed."""


class Child:
    """One server under supervision."""

    def __init__(self, server: Server, changed: Callable[[], None]) -> None:
        self.server = server
        self._changed = changed
        self._state: ServerState = "starting"
        self._process: asyncio.subprocess.Process | None = None
        self._identity: Identity | None = None
        self._version: str | None = None
        self._started_at: str | None = None
        self._restarts = 0
        self._fault: Fault | None = None
        self._was_well = False
        self._log_from = 0
        self._retry = asyncio.Event()

    def record(self) -> ServerRecord:
        """What to tell others about it."""
        return ServerRecord(
            name=self.server.name,
            state=self._state,
            pid=self._identity.pid if self._identity else None,
            version=self._version,
            started_at=self._started_at,
            restarts=self._restarts,
            ports=self.server.ports,
            endpoints=self.server.endpoints() if self._state == "healthy" else {},
            fault=self._fault,
        )

    def retry(self) -> None:
        """Try again a server that was given up."""
        self._retry.set()

    async def run(self) -> None:
        """Keep it running until cancelled, then stop it cleanly."""
        failures = 0
        try:
            while True:
                try:
                    await self._start()
                except (AgentcyError, OSError) as error:
                    await self._stop()
                    failures += 1
                    self._fault = self._explain(error)
                    if self._hopeless(self._fault, failures):
                        await self._give_up()
                        failures = 0
                        continue
                else:
                    well_since = time.monotonic()
                    await self._watch()
                    self._restarts += 1
                    failures = 0 if time.monotonic() - well_since > STEADY_SECS else failures + 1
                self._tell("restarting" if self._was_well else "starting")
                await asyncio.sleep(BACK_OFF_SECS[min(failures, len(BACK_OFF_SECS) - 1)])
        finally:
            await self._stop()
            self._tell("stopped")

    def _hopeless(self, fault: Fault, failures: int) -> bool:
        # One that was well before is retried for ever: its URL is in use, its data is there.
        terminal = fault.error in (ConfigError.__name__, StorageFullError.__name__)
        return not self._was_well and (terminal or failures >= FIRST_TRIES)

    async def _give_up(self) -> None:
        self._tell("failed")
        self._retry.clear()
        await self._retry.wait()
        self._tell("starting")

    async def _start(self) -> None:
        server = self.server
        await server.clear()
        self._choose_ports()
        await server.prepare()
        launch = server.launch()
        log = open_log(server.log)
        self._log_from = os.fstat(log).st_size
        try:
            self._process = await asyncio.create_subprocess_exec(
                *launch.argv,
                cwd=launch.cwd,
                env=dict(launch.environment) if launch.environment is not None else None,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor to handle
                preexec_fn=end_with_parent(server.death_signal),
                **launch.demotion(),
            )
        finally:
            os.close(log)
        self._identity = identify(self._process.pid)
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._changed()
        pause = POLL_SECS
        while not await server.probe():
            if self._process.returncode is not None:
                raise StoreUnavailableError(
                    f"{server.name} ended with {self._process.returncode} while it started"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, HEALTH_SECS / 10)  # a long recovery is not asked every 20 ms
        self._version = await server.provision()
        self._was_well = True
        self._fault = None
        self._tell("healthy")

    async def _watch(self) -> None:
        """Return when the process has ended, or was killed because it hung."""
        process = self._process
        if process is None:
            return
        ended = asyncio.ensure_future(process.wait())
        missed = 0
        try:
            while missed < MISSED_PROBES:
                done, _ = await asyncio.wait({ended}, timeout=HEALTH_SECS)
                if done:
                    self._fault = self._explain(
                        StoreUnavailableError(f"{self.server.name} ended with {process.returncode}")
                    )
                    return
                missed = 0 if await self._well() else missed + 1
            self._fault = self._explain(
                StoreUnavailableError(f"{self.server.name} did not answer {missed} probes")
            )
            await self._stop()
        finally:
            ended.cancel()

    async def _well(self) -> bool:
        try:
            return await self.server.probe()
        except AgentcyError as error:  # such as a password that somebody changed
            self._fault = self._explain(error)
            self._changed()
            return False

    async def _stop(self) -> None:
        if self._identity is not None:
            await stop(self._identity, self.server.stop_steps)
        if self._process is not None:
            with suppress(ProcessLookupError):
                await self._process.wait()
        self._process = self._identity = None

    def _choose_ports(self) -> None:
        """Keep every port that is known, since URLs hold it; before the first success, any."""
        for name in self.server.port_names:
            known = self.server.ports.get(name)
            if known is not None and (self._was_well or ports.is_free(known)):
                continue
            preferred = self.server.preferred_ports.get(name)
            self.server.ports[name] = ports.choose([preferred] if preferred else [])

    def _tell(self, state: ServerState) -> None:
        self._state = state
        self._changed()

    def _explain(self, error: AgentcyError | OSError) -> Fault:
        """The error with the end of the log, and the kind that a full disk makes of it."""
        end = tail(self.server.log, self._log_from)
        kind: type[AgentcyError] = type(error) if isinstance(error, AgentcyError) else ConfigError
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in end:
            kind = StorageFullError
        remedy = (
            "free some space, then start again"
            if kind is StorageFullError
            else f"see {self.server.log}; the data in {self.server.data} is untouched"
        )
        text = str(error) if isinstance(error, AgentcyError) else f"{self.server.name}: {error}"
        if isinstance(error, ConfigError):
            return Fault(kind.__name__, text, time.time())
        return Fault(kind.__name__, f"{text}; {remedy}\n{end}", time.time())
