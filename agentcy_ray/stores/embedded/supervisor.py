"""The one process per state folder that keeps the embedded servers.

``python -m agentcy_ray.stores.embedded.supervisor --state-dir D --want postgres,redis,graph``
takes the lock, goes to the background and keeps what is wanted running. SIGHUP: look for further
wants, and try again what was given up. SIGTERM: stop everything in order.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from agentcy_ray.stores.embedded.arcadedb import ArcadeDB
from agentcy_ray.stores.embedded.child import Child
from agentcy_ray.stores.embedded.kyma import Kyma
from agentcy_ray.stores.embedded.layout import Layout, open_log, run_dir
from agentcy_ray.stores.embedded.postgres import Postgres, server_user
from agentcy_ray.stores.embedded.processes import Identity, identify
from agentcy_ray.stores.embedded.record import Record, ServerRecord, read
from agentcy_ray.stores.embedded.server import Server
from agentcy_ray.stores.embedded.valkey import Valkey

SERVERS: dict[str, type[Server]] = {kind.name: kind for kind in (Postgres, Valkey, ArcadeDB, Kyma)}

EXIT_LOCKED = 75
"""Another supervisor keeps this state folder (``EX_TEMPFAIL`` of sysexits.h)."""
LOCK_PATIENCE_SECS = 0.5
WRITE_AGAIN_SECS = 5.0


class Supervisor:
    """Children, their record on disk, and the signals."""

    def __init__(self, layout: Layout, folder: Path, earlier: Record | None) -> None:
        self._layout = layout
        self._folder = folder
        self._earlier = earlier
        self._children: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._end = asyncio.Event()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        myself = identify(os.getpid())
        assert myself is not None
        self._identity: Identity = myself

    async def run(self, want: Sequence[str], ready: int, owner: int | None) -> None:
        """Keep the servers until told to stop; ``ready`` is a pipe closed once signals work."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        loop.add_signal_handler(signal.SIGHUP, self._add_wanted)
        if owner is not None:
            self._end_with(owner)
        for name in want:
            self._add(name)
        self._write()
        os.write(ready, b"1")
        os.close(ready)
        await self._end.wait()
        self._write()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._folder.parent != self._layout.state_dir:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _add(self, name: str) -> None:
        if name in self._children:
            self._children[name].retry()
            return
        server = SERVERS[name](self._layout, self._folder)
        if self._earlier is not None and name in self._earlier.servers:
            server.ports = dict(self._earlier.servers[name].ports)
        child = Child(server, self._write)
        self._children[name] = child
        task = asyncio.create_task(child.run(), name=name)
        task.add_done_callback(self._child_done)
        self._tasks[name] = task

    def _add_wanted(self) -> None:
        for wish in self._layout.wants.iterdir():
            if wish.name in SERVERS:
                self._add(wish.name)
        self._write()

    def _child_done(self, task: asyncio.Task[None]) -> None:
        """A defect of ours in one child must not leave the others unwatched: end, be restarted."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end.set()
            _say(f"{task.get_name()}: {error!r}")

    def _end_with(self, owner: int) -> None:
        """Stop when the process ``owner`` has ended."""
        try:
            descriptor = os.pidfd_open(owner)
        except ProcessLookupError:
            self._end.set()
            return
        asyncio.get_running_loop().add_reader(descriptor, self._end.set)

    def _write(self) -> None:
        servers = {name: child.record() for name, child in self._children.items()}
        if self._end.is_set():  # nobody shall start to use what is about to stop
            servers = {
                name: replace(server, state="stopped", endpoints={})
                for name, server in servers.items()
            }
        if self._earlier is not None:  # keep the ports of servers that nobody wanted this time
            earlier = self._earlier.servers.values()
            idle = {old.name: ServerRecord(old.name, "stopped", ports=old.ports) for old in earlier}
            servers = idle | servers
        record = Record(self._identity, self._started_at, str(self._folder), servers)
        try:
            record.write(self._layout)
        except OSError as error:
            # A full disk must not take the servers down with it.
            _say(f"{self._layout.record}: {error}")
            if not self._layout.record.parent.exists():
                self._end.set()  # the state folder was removed: nobody is left to serve
            if not self._end.is_set():
                asyncio.get_running_loop().call_later(WRITE_AGAIN_SECS, self._write)


def take_lock(layout: Layout) -> int | None:
    """The lock's descriptor, or None when another supervisor holds it.

    It is a kernel lock: it goes with the last process that holds the descriptor, whatever ended
    that process, and the servers do not inherit it.
    """
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_PATIENCE_SECS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.05)
        else:
            return descriptor


def _say(text: str) -> None:
    with suppress(OSError):  # the disk that holds the log may be the one that is full
        print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Take the lock, go to the background, keep the servers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--want", default="")
    parser.add_argument("--until-exit-of", type=int, help="stop when this process has ended")
    given = parser.parse_args()
    layout = Layout(given.state_dir.resolve())
    layout.prepare()
    if take_lock(layout) is None:
        return EXIT_LOCKED

    read_end, write_end = os.pipe()
    if os.fork() != 0:
        # The caller waits for this process only, and so learns whether the supervisor came up.
        os.close(write_end)
        return 0 if os.read(read_end, 1) else 1
    os.close(read_end)
    os.setsid()
    log = open_log(layout.log("supervisor"))
    os.dup2(log, 1)
    os.dup2(log, 2)

    earlier = read(layout)
    owner = server_user()
    folder = run_dir(
        layout, earlier.run_dir if earlier else None, owner.pw_uid if owner else os.geteuid()
    )
    layout.wants.mkdir(exist_ok=True, mode=0o700)
    for wish in layout.wants.iterdir():  # of an earlier supervisor
        wish.unlink()
    supervisor = Supervisor(layout, folder, earlier)
    want = [name for name in given.want.split(",") if name in SERVERS]
    asyncio.run(supervisor.run(want, write_end, given.until_exit_of))
    return 0


if __name__ == "__main__":
    sys.exit(main())
