"""A process for policies that somebody wrote: it can be killed, which regorus itself cannot.

regorus holds the interpreter lock while it works, takes exponential time to parse some texts of a
hundred bytes, and has no limit of time or memory. So what did not come with the product is read,
and where its cost is not plain (``plain.py``) also evaluated, in a process with both limits. A
question that ends it is an error, hence a deny; the next one starts another process.
"""

from __future__ import annotations

import asyncio
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

Found = dict[str, Any]
"""What each deciding rule of a set says: its path → its members."""
MEMORY_BYTES = 512 * 1024 * 1024
"""Address space that a set may take, beyond what the process starts with."""
READ_SECS = 1.0
"""CPU seconds to read one policy."""
LOAD_SECS = 2.0
"""CPU seconds to analyse a set and run it once."""
WALL_SECS = 30.0
"""A process that has not answered for so long is stuck, or the machine is."""
_CHILD = Path(__file__).with_name("sandbox_child.py")
_ENDED: dict[int, str] = {
    signal.SIGPROF: "it takes more than {limit:g} ms of CPU time",
    signal.SIGSEGV: "it nests deeper than the stack holds",
    signal.SIGABRT: "it takes more memory or stack than a policy may",
    signal.SIGKILL: "it did not end, or takes more memory than a policy may",
}


class SandboxError(Exception):
    """The process failed or was ended; the message says why, as regorus does where it can."""


class SandboxEndedError(SandboxError):
    """The process was ended for what it was asked; it would be again."""


class Sandbox:
    """One set of policies in a process of its own, started when it is needed."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._load: dict[str, Any] | None = None
        self._forget: weakref.finalize[..., Any] | None = None
        self._lane: ThreadPoolExecutor | None = None
        self.read_ms = 0.0
        """CPU milliseconds of reading the policies."""

    def read(self, name: str, text: str, v0: bool) -> Any:
        """The tree of a policy, as regorus gives it.

        Raises:
            SandboxError: it does not parse.
            SandboxEndedError: it takes too much to.
        """
        ask = {"do": "read", "name": name, "text": text, "v0": v0}
        with self._turn:
            body, cpu_ms = self._asked(ask, READ_SECS)
        self.read_ms += cpu_ms
        return body[0]["ast"]

    def load(self, modules: Sequence[tuple[str, str, bool]], data: str, query: str) -> None:
        """Load a set, of (name, text, v0), and keep it for questions.

        Raises:
            SandboxError: it is not sound, or takes too much to analyse.
        """
        load = {"do": "load", "modules": list(modules), "data": data, "query": query}
        self._load = load
        with self._turn:
            self._asked(load, LOAD_SECS)

    def keep(self, modules: Sequence[tuple[str, str, bool]], data: str, query: str) -> None:
        """Keep a sound set for questions to come, and end the process until then."""
        self._load = {"do": "load", "modules": list(modules), "data": data, "query": query}
        self.close()

    def ask(self, document: str, limit_ms: float) -> tuple[Found, float]:
        """What each rule of the set says of an input, and the CPU milliseconds it took.

        Args:
            document: the input, as JSON.
            limit_ms: CPU milliseconds after which the process is ended.

        Raises:
            SandboxError: the evaluation failed or was ended.
        """
        assert self._load is not None
        with self._turn:
            if not self._runs():
                self._asked(self._load, LOAD_SECS)
            answer, cpu_ms = self._asked({"do": "ask", "input": document}, limit_ms / 1000)
        return answer["result"][0]["expressions"][0]["value"], cpu_ms

    async def in_turn(self, work: Any, *args: Any) -> Any:
        """Run ``work``, which asks this process, beside the event loop, one after another."""
        if self._lane is None:
            self._lane = ThreadPoolExecutor(1, "policy-sandbox")
        return await asyncio.get_running_loop().run_in_executor(self._lane, work, *args)

    def close(self) -> None:
        """End the process; a later question starts another."""
        with self._turn:
            self._end()

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _asked(self, message: dict[str, Any], cpu_secs: float) -> tuple[Any, float]:
        """Send a message and take its answer. The turn is ours."""
        process = self._process
        if process is None or not self._runs():
            process = self._start()
        body = orjson.dumps(message | {"cpu_secs": cpu_secs})
        try:
            assert process.stdin is not None
            process.stdin.write(len(body).to_bytes(4, "big") + body)
            process.stdin.flush()
            until = time.monotonic() + WALL_SECS
            answer = orjson.loads(_take(process, int.from_bytes(_take(process, 4, until)), until))
        except (OSError, EOFError) as error:
            raise SandboxEndedError(self._why(cpu_secs * 1000)) from error
        if "error" in answer:
            raise SandboxError(answer["error"])
        return answer["ok"], answer["cpu_ms"]

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
            [sys.executable, "-I", str(_CHILD), str(MEMORY_BYTES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={},
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
