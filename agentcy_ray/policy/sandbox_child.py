"""What the process of ``sandbox.py`` does: reads policies, and evaluates a set of them.

It is run by its path and imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import regorus


class Evaluator:
    """What the messages are about: at most one loaded set of policies."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._set: dict[str, Any] = {}

    def handle(self, message: dict[str, Any], payload: bytes) -> bytes:
        """Do what a message says: ``read``, ``load`` or ``ask``."""
        answer: str = getattr(self, message["do"])(message, payload.decode())
        return answer.encode()

    def read(self, message: dict[str, Any], text: str) -> str:
        """The tree of one policy, as regorus parses it."""
        engine = _new_engine()
        engine.set_rego_v0(message["v0"])
        engine.add_policy(message["name"], text)
        return engine.get_ast_as_json()

    def load(self, message: dict[str, Any], _: str) -> str:
        """Load a set and run it once, which analyses all of it."""
        self._engine, self._set = None, message
        engine = _new_engine()
        for name, text, v0 in message["modules"]:
            engine.set_rego_v0(v0)
            engine.add_policy(name, text)
        engine.set_rego_v0(False)
        engine.add_data_json(message["data"])
        engine.set_input_json("{}")
        engine.eval_query_as_json(message["query"])
        self._engine = engine
        return ""

    def ask(self, _: dict[str, Any], document: str) -> str:
        """Evaluate the set on one input."""
        if self._engine is None:
            self.load(self._set, "")
        engine: Any = self._engine
        self._engine = None  # a panic may leave it in any state
        engine.set_input_json(document)
        answer = engine.eval_query_as_json(self._set["query"])
        self._engine = engine
        return answer


def _new_engine() -> Any:
    engine: Any = regorus.Engine()  # pyright: ignore[reportAttributeAccessIssue]
    engine.set_gather_prints(True)  # stdout carries answers only
    return engine


def handler() -> Callable[[dict[str, Any], bytes], bytes]:
    """For ``killable_child.py``."""
    return Evaluator().handle
