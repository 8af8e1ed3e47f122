"""Using the embedded servers from any process: start the supervisor, ask it, stop it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentcy_ray.core import errors
from agentcy_ray.core.errors import AgentcyError, StoreUnavailableError
from agentcy_ray.core.settings import plain_environment
from agentcy_ray.stores.embedded import record
from agentcy_ray.stores.embedded.kyma import Kyma, choose_place
from agentcy_ray.stores.embedded.layout import Layout, open_log, tail
from agentcy_ray.stores.embedded.processes import StopStep, stop
from agentcy_ray.stores.embedded.record import Record, ServerRecord, ServerState
from agentcy_ray.stores.endpoints import Endpoints

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings

SUPERVISOR = "agentcy_ray.stores.embedded.supervisor"
EXIT_LOCKED = 75
START_SECS = 60.0
"""How long ``ensure_embedded`` waits for health."""
STOP_STEPS: tuple[StopStep, ...] = ((signal.SIGTERM, 45.0),)
POLL_SECS = 0.03


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One embedded server, for people; no secrets."""

    name: str
    state: ServerState
    pid: int | None
    version: str | None
    ports: Mapping[str, int]
    started_at: str | None
    restarts: int
    error: str | None
    log: str


async def ensure_embedded(
    settings: Settings, want: frozenset[str], *, until_exit_of: int | None = None
) -> Endpoints:
    """Start what is wanted and does not run yet, and wait until it is healthy.

    Any number of processes may call this at once: one supervisor comes out of it. A supervisor
    that runs without one of the wanted servers adds it.

    Args:
        settings: names the state folder.
        want: of ``postgres``, ``redis``, ``graph``, ``kyma``.
        until_exit_of: when a supervisor is started here, it stops all when this process ends.

    Raises:
        ConfigError: the folder, a data folder or a binary cannot be used.
        StorageFullError: no space is left.
        StoreUnavailableError: a server did not come up within 60 s.
    """
    layout = Layout(settings.state_dir.resolve())
    layout.prepare()
    if Kyma.name in want:
        await asyncio.to_thread(choose_place, layout, settings)
    began = time.time()
    deadline = time.monotonic() + START_SECS
    asked = False
    while True:
        running = _running(layout)
        if running is None:
            await asyncio.to_thread(_start_supervisor, layout, want, until_exit_of)
        else:
            missing = [name for name in sorted(want) if not _healthy(running, name)]
            if not missing:
                return _endpoints(running)
            if not asked and any(_needs_asking(running, name) for name in missing):
                _ask(layout, running, want)
                asked = True
            _raise_faults(running, missing, began)
        if time.monotonic() >= deadline:
            raise _too_late(layout, running, want)
        await asyncio.sleep(POLL_SECS)


def read_endpoints(settings: Settings) -> Endpoints | None:
    """The endpoints of what runs healthily right now; None when no supervisor runs."""
    running = _running(Layout(settings.state_dir.resolve()))
    return _endpoints(running) if running is not None else None


async def stop_embedded(settings: Settings) -> bool:
    """Stop the supervisor and its servers in order; False when none ran."""
    running = _running(Layout(settings.state_dir.resolve()))
    if running is None:
        return False
    await stop(running.supervisor, STOP_STEPS)
    return True


def status(settings: Settings) -> list[ServerStatus]:
    """Every server that the running supervisor keeps; empty when none runs."""
    layout = Layout(settings.state_dir.resolve())
    running = _running(layout)
    return [
        ServerStatus(
            name=server.name,
            state=server.state,
            pid=server.pid,
            version=server.version,
            ports=server.ports,
            started_at=server.started_at,
            restarts=server.restarts,
            error=server.fault.message if server.fault else None,
            log=str(layout.log(server.name)),
        )
        for server in (running.servers.values() if running else ())
        if server.state != "stopped"
    ]


def _running(layout: Layout) -> Record | None:
    found = record.read(layout)
    return found if found is not None and found.supervisor.alive else None


def _healthy(running: Record, name: str) -> bool:
    server = running.servers.get(name)
    return server is not None and server.state == "healthy"


def _needs_asking(running: Record, name: str) -> bool:
    server = running.servers.get(name)
    return server is None or server.state in ("stopped", "failed")


def _endpoints(running: Record) -> Endpoints:
    fields: dict[str, str] = {}
    for server in running.servers.values():
        if server.state == "healthy":
            fields |= server.endpoints
    return Endpoints(**fields)


def _start_supervisor(layout: Layout, want: frozenset[str], until_exit_of: int | None) -> None:
    """Run the supervisor's foreground part, which ends once the background part is up."""
    argv = [sys.executable, "-m", SUPERVISOR, "--state-dir", str(layout.state_dir)]
    argv += ["--want", ",".join(sorted(want))]
    if until_exit_of is not None:
        argv += ["--until-exit-of", str(until_exit_of)]
    log = open_log(layout.log("supervisor"))
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=plain_environment(),  # which the servers inherit
            start_new_session=True,
            timeout=START_SECS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StoreUnavailableError(
            f"the supervisor did not start within {START_SECS:.0f} s; see "
            f"{layout.log('supervisor')}"
        ) from error
    finally:
        os.close(log)
    if done.returncode not in (0, EXIT_LOCKED):
        raise StoreUnavailableError(
            f"the supervisor of the embedded servers did not start; see "
            f"{layout.log('supervisor')}\n{tail(layout.log('supervisor'))}"
        )


def _ask(layout: Layout, running: Record, want: frozenset[str]) -> None:
    layout.wants.mkdir(exist_ok=True)
    for name in want:
        (layout.wants / name).touch()
    if running.supervisor.alive:
        os.kill(running.supervisor.pid, signal.SIGHUP)


def _raise_faults(running: Record, missing: list[str], began: float) -> None:
    """Raise what made a wanted server be given up, unless that was before we asked."""
    for name in missing:
        server = running.servers.get(name)
        if server is None or server.state != "failed" or server.fault is None:
            continue
        if server.fault.at >= began:
            kind: type[AgentcyError] = getattr(errors, server.fault.error, StoreUnavailableError)
            raise kind(f"embedded {name} did not start: {server.fault.message}", server=name)


def _too_late(layout: Layout, running: Record | None, want: frozenset[str]) -> AgentcyError:
    if running is None:
        return StoreUnavailableError(
            f"another process holds {layout.lock}, yet no supervisor answers on this machine; "
            "is the state folder shared with another container? Set AGENTCY_STATE_DIR apart"
        )
    states = {
        name: _described(layout, running.servers.get(name), name)
        for name in sorted(want)
        if not _healthy(running, name)
    }
    return StoreUnavailableError(
        f"embedded servers are not healthy after {START_SECS:.0f} s: " + "; ".join(states.values())
    )


def _described(layout: Layout, server: ServerRecord | None, name: str) -> str:
    if server is None:
        return f"{name} is not started"
    return f"{name} is {server.state}, see {layout.log(name)}\n{tail(layout.log(name))}"
