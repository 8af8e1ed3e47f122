"""A process that serves keeps the memory that it passes batches on with."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS, BATCHES, LARGE = 50, 32, 512 << 10
PROGRAM = f"""
import resource, sys
from agentcy_ray.core import interpreter

if "kept" in sys.argv:
    interpreter.keep_memory()
for number in range({ROUNDS}):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    batches = [bytearray(b"x") * {LARGE} for _ in range({BATCHES})]
    del batches
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_used_again_instead_of_mapped_anew() -> None:
    pages = BATCHES * LARGE // 4096
    assert _faults("kept") < 2 * pages
    assert _faults("given back") > ROUNDS // 2 * pages


def _faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True, timeout=60
    )
    return int(done.stdout)
