"""A process for work on what came from outside: it can be killed, which the libraries cannot.

Parsers of policies, Office files and PDFs take minutes or gigabytes for some inputs of a kilobyte,
and hold the interpreter lock meanwhile. Here such work has a limit of CPU time and of memory, and
its end is an error of that one piece of work; the next piece starts another process.
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import orjson

WALL_SECS = 10.0
"""A process is stuck, or the machine is, that has not answered ten times its CPU time and this."""
_CHILD = Path(__file__).with_name("killable_child.py")
_ENDED: dict[int, str] = {
    signal.SIGPROF: "it takes more than {limit:g} ms of CPU time",
    signal.SIGSEGV: "it nests deeper than the stack holds",
    signal.SIGABRT: "it takes more memory or stack than it may",
    signal.SIGKILL: "it did not end, or takes more memory than it may",
}


class KillableError(Exception):
    """The work failed; the message says why."""


class EndedError(KillableError):
    """The process was ended for its work; it would be again."""


class Killable:
    """A process of one kind of work, started when it is needed; calls take turns.

    Args:
        handler: the file that defines what it does, see ``killable_child.py``.
        memory: bytes of address space for the work.
    """

    def __init__(self, handler: Path, memory: int) -> None:
        self._handler = handler
        self._memory = memory
        self._turn = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._forget: weakref.finalize[..., Any] | None = None

    @property
    def turn(self) -> threading.RLock:
        """Held by a caller for several calls that belong together."""
        return self._turn

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def ask(self, message: dict[str, Any], payload: bytes, cpu_secs: float) -> tuple[bytes, float]:
        """Have a piece of work done, from a thread.

        Returns:
            The answer, and the CPU milliseconds that it took.

        Raises:
            KillableError: the work failed.
            EndedError: it took more than its time or memory, or crashed the process.
        """
        head = orjson.dumps(message | {"cpu_secs": cpu_secs})
        with self._turn:
            process = self._process if self.runs else None
            if process is None:
                process = self._start()
            try:
                _send(process, head, payload)
                until = time.monotonic() + WALL_SECS + 10 * cpu_secs
                answer = orjson.loads(_take(process, _size(process, until), until))
                said = _take(process, _size(process, until), until)
            except (OSError, EOFError) as error:
                raise EndedError(self._why(cpu_secs * 1000)) from error
        if "error" in answer:
            raise KillableError(answer["error"])
        return said, answer["cpu_ms"]

    def close(self) -> None:
        """End the process; later work starts another."""
        with self._turn:
            self._end()

    def _why(self, limit_ms: float) -> str:
        process = self._process
        assert process is not None
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        self._end()
        return _ENDED.get(-code, "its process ended").format(limit=limit_ms)

    def _start(self) -> subprocess.Popen[bytes]:
        self._end()
        process = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD), str(self._memory), str(self._handler)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={}, cwd="/",
        )  # fmt: skip
        self._process = process
        self._forget = weakref.finalize(self, _end, process)
        return process

    def _end(self) -> None:
        self._process = None
        if self._forget is not None:
            self._forget()
            self._forget = None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what it was not told any more


def _send(process: subprocess.Popen[bytes], head: bytes, payload: bytes) -> None:
    assert process.stdin is not None
    for part in (head, payload):
        process.stdin.write(len(part).to_bytes(4, "big"))
        process.stdin.write(part)
    process.stdin.flush()


def _size(process: subprocess.Popen[bytes], until: float) -> int:
    return int.from_bytes(_take(process, 4, until), "big")


def _take(process: subprocess.Popen[bytes], size: int, until: float) -> bytes:
    """Read so many bytes of an answer.

    Raises:
        EOFError: the process ended.
        TimeoutError: it did not answer in time.
    """
    assert process.stdout is not None
    pipe = process.stdout.raw  # type: ignore[attr-defined]
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    taken = bytearray()
    while len(taken) < size:
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError("no answer")
        piece = pipe.read(size - len(taken))
        if not piece:
            raise EOFError
        taken += piece
    return bytes(taken)
