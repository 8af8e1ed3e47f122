"""What the demo's tools did: one JSON line per effect, in the source's work folder.

A test or a person can count there how often something truly happened. An idempotency key that is
already in the ledger is answered from it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

FILE = "demo-effects.ndjson"


class Ledger:
    """Effects in order. Blocking; call it on a thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / FILE
        self._by_key: dict[str, dict[str, Any]] = {}
        self.restarts: dict[str, int] = {}
        self.deleted: set[str] = set()
        if self._path.exists():
            *lines, rest = self._path.read_bytes().split(b"\n")
            for line in lines:
                self._take(orjson.loads(line))
            if rest:  # left half-written by a killed process: an effect that did not happen
                os.truncate(self._path, self._path.stat().st_size - len(rest))

    def seen(self, key: str | None) -> dict[str, Any] | None:
        """The answer that was given under an idempotency key."""
        return None if key is None else self._by_key.get(key)

    def record(self, tool: str, target: str, key: str | None) -> dict[str, Any]:
        """Write an effect down and make it so; returns the tool's answer."""
        answer: dict[str, Any] = {"id": target, "done": tool}
        if tool == "restart_service":
            answer["restarts"] = self.restarts.get(target, 0) + 1
        entry = {"tool": tool, "target": target, "key": key, "answer": answer}
        with self._path.open("ab") as file:
            file.write(orjson.dumps(entry) + b"\n")
        self._take(entry)
        return answer

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["tool"] == "restart_service":
            self.restarts[entry["target"]] = entry["answer"]["restarts"]
        else:
            self.deleted.add(entry["target"])
        if entry["key"] is not None:
            self._by_key[entry["key"]] = entry["answer"]
