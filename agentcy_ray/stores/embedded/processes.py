"""Processes: who they are, ending with their parent, and how they are stopped (Linux)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""``prctl(2)``: the signal that the kernel sends to a process when its parent ends."""

StopStep = tuple[signal.Signals, float]
"""A signal, and how many seconds to wait for the end after it."""

POLL_SECS = 0.02


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told apart from a later one that got the same number."""

    pid: int
    started: str
    """Boot id and start time in clock ticks since boot."""

    @property
    def alive(self) -> bool:
        """Whether that very process still runs; a zombie does not."""
        return identify(self.pid) == self


def identify(pid: int) -> Identity | None:
    """The identity of a running process, or None when there is none."""
    try:
        # proc(5): the name in parentheses may hold anything, so count fields after the last one
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else Identity(pid, f"{boot}:{fields[19]}")


def end_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """A ``preexec_fn`` that has the kernel send ``death_signal`` when the parent dies.

    ``kill -9`` of the supervisor leaves it no chance to stop its servers; the kernel does.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def between_fork_and_exec() -> None:
        if libc.prctl(PR_SET_PDEATHSIG, int(death_signal)) != 0 or os.getppid() != parent:
            os._exit(127)

    return between_fork_and_exec


def processes_in(folder: Path, program: str) -> Iterator[Identity]:
    """Processes of ``program`` whose working folder is ``folder``.

    Each server works in its own data folder, which names it beyond doubt: no recorded pid is
    needed, so nothing that merely reused a pid is ever touched.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "cwd").readlink() != folder:
                continue
            executable = (entry / "exe").readlink().name
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if executable.startswith(program) or program.encode() in arguments:
            found = identify(int(entry.name))
            if found is not None:
                yield found


async def stop(process: Identity, steps: Sequence[StopStep]) -> None:
    """Send the signals in turn until the process is gone; the last resort is SIGKILL."""
    for number, grace in (*steps, (signal.SIGKILL, 10.0)):
        if not process.alive:
            return
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return
        await wait_gone(process, grace)


async def wait_gone(process: Identity, seconds: float) -> bool:
    """Wait until the process has ended; False when it still runs after ``seconds``."""
    deadline = time.monotonic() + seconds
    while process.alive:
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(POLL_SECS)
    return True
