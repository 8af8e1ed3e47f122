"""How Python's interpreter shares its time, for processes that serve for days.

The collector's defaults look at every container after 700 new ones, and again and again at what
start-up left behind. On the path of tool calls that took a fifth of the processor's time.

A thread that computes keeps the interpreter's lock for 5 ms when another asks for it. An event loop
gives the lock up at each write to a socket, so beside a thread that cuts texts it waited longer for
the lock than it worked: a backfill wrote a fifth fewer rows (``benchmarks/backfill.py``).
"""

from __future__ import annotations

import gc
import sys

YOUNG = 50_000
"""New containers between two looks at the young ones."""
SWITCH_SECS = 0.0005
"""How long a thread that computes keeps the lock from one that asks for it."""


def settle() -> None:
    """Collect seldom, never what exists now, and pass the lock on soon; call it once started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)
    sys.setswitchinterval(SWITCH_SECS)
