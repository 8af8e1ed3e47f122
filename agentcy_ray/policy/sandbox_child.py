"""The other side of ``sandbox.py``: a process that reads and evaluates policies somebody wrote.

It runs by its path, isolated, and imports nothing of ours: it starts in a few dozen milliseconds
and knows no secret. A message is four bytes of length and JSON; each is answered by one. Whatever
passes the CPU time of its message is ended by the kernel, since regorus cannot be interrupted: the
timer's signal keeps its default action, which is to end the process.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import regorus

IDLE_SECS = 60.0
"""Without a message for so long it leaves; it is started again when it is needed."""
ANSWER_BYTES = 64 * 1024 * 1024


class Evaluator:
    """What the messages are about: at most one loaded set of policies."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._set: dict[str, Any] = {}

    def read(self, ask: dict[str, Any]) -> str:
        """The tree of one policy, as regorus parses it."""
        engine = _new_engine()
        engine.set_rego_v0(ask["v0"])
        engine.add_policy(ask["name"], ask["text"])
        return engine.get_ast_as_json()

    def load(self, ask: dict[str, Any]) -> str:
        """Load a set and run it once, which analyses all of it."""
        self._engine, self._set = None, ask
        engine = _new_engine()
        for name, text, v0 in ask["modules"]:
            engine.set_rego_v0(v0)
            engine.add_policy(name, text)
        engine.set_rego_v0(False)
        engine.add_data_json(ask["data"])
        engine.set_input_json("{}")
        engine.eval_query_as_json(ask["query"])
        self._engine = engine
        return "null"

    def ask(self, ask: dict[str, Any]) -> str:
        """Evaluate the set on one input."""
        if self._engine is None:
            self.load(self._set)
        engine: Any = self._engine
        self._engine = None  # a panic may leave it in any state
        engine.set_input_json(ask["input"])
        answer = engine.eval_query_as_json(self._set["query"])
        self._engine = engine
        return answer


def main(memory: int) -> None:
    """Answer messages from stdin until it closes.

    Args:
        memory: bytes of address space that this process may have beyond what it starts with.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory += pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    evaluator = Evaluator()
    while select.select([0], [], [], IDLE_SECS)[0] and (head := _take(4)):
        message = orjson.loads(_take(int.from_bytes(head, "big")))
        _put(_answer(evaluator, message))


def _answer(evaluator: Evaluator, message: dict[str, Any]) -> bytes:
    signal.setitimer(signal.ITIMER_PROF, message["cpu_secs"])
    began = time.process_time()
    try:
        said = getattr(evaluator, message["do"])(message).encode()
        if len(said) > ANSWER_BYTES:
            raise ValueError(f"it says more than {ANSWER_BYTES >> 20} MiB")
        body = b'"ok":' + said
    except BaseException as error:  # noqa: BLE001 - a panic of regorus is no Exception
        body = b'"error":' + orjson.dumps((str(error) or type(error).__name__)[:4096])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return b'{"cpu_ms":%.3f,%s}' % ((time.process_time() - began) * 1000, body)


def _new_engine() -> Any:
    engine: Any = regorus.Engine()  # pyright: ignore[reportAttributeAccessIssue]
    engine.set_gather_prints(True)  # stdout carries answers only
    return engine


def _take(size: int) -> bytes:
    taken = bytearray()
    while len(taken) < size:
        piece = os.read(0, size - len(taken))
        if not piece:
            sys.exit(0)
        taken += piece
    return bytes(taken)


def _put(body: bytes) -> None:
    left = memoryview(len(body).to_bytes(4, "big") + body)
    while left:
        left = left[os.write(1, left) :]


if __name__ == "__main__":
    main(int(sys.argv[1]))
