"""What the demo's tools did: one JSON line per effect, in the source's work folder.

A test or a person can count there how often something truly happened. An idempotency key that is
already in the ledger is answered from it, also when another process wrote it: the file is locked
while an effect is looked up and written, and what others have added is read first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
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
        self._read = 0
        self.restarts: dict[str, int] = {}
        self.deleted: set[str] = set()
        with self._locked():
            pass

    def seen(self, key: str | None) -> dict[str, Any] | None:
        """The answer that was given under an idempotency key, in any process."""
        if key is None:
            return None
        with self._locked():
            return self._by_key.get(key)

    def record(self, tool: str, target: str, key: str | None) -> dict[str, Any]:
        """Write an effect down and make it so, once for each key; returns the tool's answer."""
        with self._locked() as descriptor:
            if key is not None and key in self._by_key:
                return self._by_key[key]
            answer: dict[str, Any] = {"id": target, "done": tool}
            if tool == "restart_service":
                answer["restarts"] = self.restarts.get(target, 0) + 1
            entry = {"tool": tool, "target": target, "key": key, "answer": answer}
            self._read += os.write(descriptor, orjson.dumps(entry) + b"\n")
            self._take(entry)
            return answer

    @contextmanager
    def _locked(self) -> Generator[int]:
        """The file for appending, locked, and everything in it taken note of."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size > self._read:
                new = os.pread(descriptor, size - self._read, self._read)
                *lines, rest = new.split(b"\n")
                for line in lines:
                    self._take(orjson.loads(line))
                if rest:  # left half-written by a killed process: an effect that did not happen
                    os.ftruncate(descriptor, size - len(rest))
                self._read = size - len(rest)
            yield descriptor
        finally:
            os.close(descriptor)

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["tool"] == "restart_service":
            self.restarts[entry["target"]] = entry["answer"]["restarts"]
        else:
            self.deleted.add(entry["target"])
        if entry["key"] is not None:
            self._by_key[entry["key"]] = entry["answer"]
