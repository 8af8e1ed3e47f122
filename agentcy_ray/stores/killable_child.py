"""The other side of ``killable.py``: takes messages from stdin, answers on stdout.

It runs by its path, isolated, and imports nothing of ours. A message is four bytes of length, a
JSON object, four bytes of length and a payload; an answer has the same form. Whatever passes the
CPU time of its message is ended by the kernel, since what runs here cannot be interrupted: the
timer's signal keeps its default action, which is to end the process.
"""

from __future__ import annotations

import os
import resource
import runpy
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

IDLE_SECS = 60.0
"""Without a message for so long it leaves; it is started again when it is needed."""
ANSWER_BYTES = 64 * 1024 * 1024
Handler = Callable[[dict[str, Any], bytes], bytes]


def main(memory: int, path: str) -> None:
    """Answer messages until stdin closes.

    Args:
        memory: bytes of address space that this process may have beyond what it starts with.
        path: of a Python file that defines ``handler() -> Handler``.
    """
    handle: Handler = runpy.run_path(path)["handler"]()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory += pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while select.select([0], [], [], IDLE_SECS)[0] and (head := _take(4)):
        message = orjson.loads(_take(int.from_bytes(head, "big")))
        payload = _take(int.from_bytes(_take(4), "big"))
        _put(*_answer(handle, message, payload))


def _answer(handle: Handler, message: dict[str, Any], payload: bytes) -> tuple[bytes, bytes]:
    answer: dict[str, Any] = {}
    said = b""
    signal.setitimer(signal.ITIMER_PROF, message["cpu_secs"])
    began = time.process_time()
    try:
        said = handle(message, payload)
        if len(said) > ANSWER_BYTES:
            raise ValueError(f"it says more than {ANSWER_BYTES >> 20} MiB")
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
        answer["error"] = (str(error).strip() or type(error).__name__)[:4096]
        said = b""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    answer["cpu_ms"] = (time.process_time() - began) * 1000
    return orjson.dumps(answer), said


def _take(size: int) -> bytes:
    taken = bytearray()
    while len(taken) < size:
        piece = os.read(0, size - len(taken))
        if not piece:
            sys.exit(0)
        taken += piece
    return bytes(taken)


def _put(head: bytes, body: bytes) -> None:
    for part in (head, body):
        left = memoryview(len(part).to_bytes(4, "big") + part)
        while left:
            left = left[os.write(1, left) :]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
