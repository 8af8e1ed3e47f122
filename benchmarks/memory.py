"""Memory of everything that belongs to one state folder."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import psutil

SETTLE_TRIES, SETTLE_SECS, SETTLED_KB, STEADY = 80, 0.5, 256.0, 4


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes with the folder in command line or environment, and all below them.

    Ray's and the stores' processes are no children of who started them; the folder finds them.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
            if any(str(folder) in word for word in words):
                found |= {each.pid: each for each in (process, *process.children(recursive=True))}
        except psutil.Error:
            continue  # it has ended meanwhile, or is somebody else's
    found.pop(os.getpid(), None)
    return list(found.values())


def memory_kb(processes: list[psutil.Process]) -> Counter[int]:
    """Kilobytes by process id; shared pages are divided among those who share them (PSS)."""
    found: Counter[int] = Counter()
    for process in processes:
        try:
            found[process.pid] = process.memory_full_info().pss // 1000
        except psutil.NoSuchProcess:
            continue
    return found


async def settled_kb(processes: list[psutil.Process]) -> Counter[int]:
    """As ``memory_kb``, once it has hardly changed for a few samples in a row."""
    last, steady = memory_kb(processes), 0
    for _ in range(SETTLE_TRIES):
        await asyncio.sleep(SETTLE_SECS)
        now = memory_kb(processes)
        steady = steady + 1 if abs(now.total() - last.total()) < SETTLED_KB else 0
        last = now
        if steady == STEADY:
            break
    return last
