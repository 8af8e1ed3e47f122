"""How a process that serves for days shares its time and keeps its memory.

The collector's defaults look at every container after 700 new ones, and again and again at what
start-up left behind. On the path of tool calls that took a fifth of the processor's time.

A thread that computes keeps the interpreter's lock for 5 ms when another asks for it. An event loop
gives the lock up at each write to a socket, so beside a thread that cuts texts it waited longer for
the lock than it worked: a backfill wrote a fifth fewer rows (``benchmarks/backfill.py``).

glibc gives memory back to the kernel as soon as the end of a heap is free, and takes what is large
from the kernel each time. A process that passes batches on has each of their pages cleared and
mapped anew: half of the kernel's time in an answer as Arrow (``benchmarks/arrow_out.py``).
"""

from __future__ import annotations

import ctypes
import gc
import sys

YOUNG = 50_000
"""New containers between two looks at the young ones."""
SWITCH_SECS = 0.0005
"""How long a thread that computes keeps the lock from one that asks for it."""
KEPT_BYTES = 32 << 20
"""Free memory that a heap keeps; larger than one batch, and the most that glibc takes for both."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``mallopt(3)``."""


def settle() -> None:
    """Collect seldom, never what exists now, pass the lock on soon; call it once started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)
    sys.setswitchinterval(SWITCH_SECS)
    keep_memory()


def keep_memory() -> None:
    """Keep some freed memory for the next batch; where the C library is not glibc, do nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
