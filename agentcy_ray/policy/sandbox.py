"""A process for policies that somebody wrote: it can be killed, which regorus itself cannot.

regorus holds the interpreter lock while it works, takes exponential time to parse some texts of a
hundred bytes, and has no limit of time or memory. So what did not come with the product is read,
and where its cost is not plain (``plain.py``) also evaluated, in a process with both limits. A
question that ends it is an error, hence a deny; the next one starts another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from agentcy_ray.stores.killable import Killable

MEMORY_BYTES = 512 * 1024 * 1024
"""Address space that a set may take."""
READ_SECS = 1.0
"""CPU seconds to read one policy."""
LOAD_SECS = 2.0
"""CPU seconds to analyse a set and run it once."""
Found = dict[str, Any]
"""What each deciding rule of a set says: its path → its members."""
_CHILD = Path(__file__).with_name("sandbox_child.py")


class Sandbox:
    """One set of policies in a process of its own, started when it is needed.

    Its methods raise ``KillableError`` when regorus finds a fault, ``EndedError`` when the process
    was ended for what it was asked.
    """

    def __init__(self) -> None:
        self._process = Killable(_CHILD, MEMORY_BYTES)
        self._load: dict[str, Any] | None = None
        self._lane: ThreadPoolExecutor | None = None
        self.read_ms = 0.0
        """CPU milliseconds of reading the policies."""

    def read(self, name: str, text: str, v0: bool) -> Any:
        """The tree of a policy, as regorus gives it."""
        message = {"do": "read", "name": name, "v0": v0}
        tree, cpu_ms = self._process.ask(message, text.encode(), READ_SECS)
        self.read_ms += cpu_ms
        return orjson.loads(tree)[0]["ast"]

    def load(self, modules: Sequence[tuple[str, str, bool]], data: str, query: str) -> None:
        """Load a set, of (name, text, v0), and keep it for questions."""
        self._load = {"do": "load", "modules": list(modules), "data": data, "query": query}
        self._process.ask(self._load, b"", LOAD_SECS)

    def keep(self, modules: Sequence[tuple[str, str, bool]], data: str, query: str) -> None:
        """Keep a sound set for questions to come, and end the process until then."""
        self._load = {"do": "load", "modules": list(modules), "data": data, "query": query}
        self._process.close()

    def ask(self, document: str, limit_ms: float) -> tuple[Found, float]:
        """What each rule of the set says of an input, and the CPU milliseconds it took.

        Args:
            document: the input, as JSON.
            limit_ms: CPU milliseconds after which the process is ended.
        """
        assert self._load is not None
        with self._process.turn:
            if not self._process.runs:
                self._process.ask(self._load, b"", LOAD_SECS)
            answer, cpu_ms = self._process.ask({"do": "ask"}, document.encode(), limit_ms / 1000)
        return orjson.loads(answer)["result"][0]["expressions"][0]["value"], cpu_ms

    async def in_turn(self, work: Any, *args: Any) -> Any:
        """Run ``work``, which asks this process, beside the event loop, one after another."""
        if self._lane is None:
            self._lane = ThreadPoolExecutor(1, "policy-sandbox")
        return await asyncio.get_running_loop().run_in_executor(self._lane, work, *args)
