"""The session of a connector whose source is one file of records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from agentcy_ray.connectors.base import (
    Checkpoint,
    Cursors,
    ExtractItem,
    Mode,
    SessionContext,
)
from agentcy_ray.connectors.records import json_object
from agentcy_ray.connectors.source_file import FileConfig, SourceFile, source_file
from agentcy_ray.connectors.threads import pull
from agentcy_ray.core.errors import ToolNotFoundError

STREAM = "file"
CHECK_ROWS = 100

ConfigT = TypeVar("ConfigT", bound=FileConfig)
Reader = Callable[[ConfigT, SourceFile, int | None], Generator[ExtractItem, None, None]]
"""Reads a file as batches, rejects and progress; with a number, that many records at most."""


class FileSession(Generic[ConfigT]):
    """Reads one file in full when it changed since the cursor, and not at all otherwise."""

    def __init__(self, config: ConfigT, context: SessionContext, read: Reader[ConfigT]) -> None:
        self._config = config
        self._context = context
        self._read = read

    async def check(self) -> None:
        """Bring the file within reach and read its first records.

        Raises:
            SourceConfigError: it cannot be read as configured.
        """
        async with (
            source_file(self._config, self._context) as file,
            aclosing(pull(self._read(self._config, file, CHECK_ROWS))) as items,
        ):
            async for _ in items:
                pass

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        """All records of the file, or nothing when neither it nor the config changed.

        Raises:
            SourceConfigError: the file cannot be read as configured.
        """
        async with source_file(self._config, self._context) as file:
            cursor = {"fingerprint": file.fingerprint, "config": _config_digest(self._config)}
            last = cursors.get(STREAM)
            if not full and last == cursor:
                yield Mode(full=False, note="the file has not changed")
                return
            yield Mode(full=True, note="" if full or last is None else "the file has changed")
            async with aclosing(pull(self._read(self._config, file, None))) as items:
                async for item in items:
                    yield item
            yield Checkpoint(STREAM, cursor)

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """Refuse: a file of records offers no tools.

        Raises:
            ToolNotFoundError: always.
        """
        raise ToolNotFoundError(
            f"this source offers no tool {tool!r}; query its records in the context engine",
            tool=tool,
        )

    async def close(self) -> None:
        """Nothing is held between calls."""


def _config_digest(config: FileConfig) -> str:
    """Changes with every field that shapes the rows; secrets do not, and stay out."""
    shape = config.model_dump(mode="json", exclude={"headers"})
    return blake2b(json_object(shape).encode(), digest_size=8).hexdigest()
