"""The connector behind a realm's built-in source: what continuous pipelines have taken.

Accepted records lie in numbered segments. An extract yields those after the cursor, so a sync of
the source publishes them like rows of any other: package, difference, cursor in one transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import pyarrow as pa

from agentcy_ray.connectors.base import (
    Batch,
    Checkpoint,
    ConnectorSpec,
    Cursors,
    ExtractItem,
    Mode,
    Session,
    SessionContext,
)
from agentcy_ray.connectors.config import ConnectorConfig, fault, read_config
from agentcy_ray.core.errors import ToolNotFoundError
from agentcy_ray.core.tools import ToolSpec

CONNECTOR = "pipelines"
STREAM = "segments"
READER = "segments"
"""Name under which a session's context holds its ``Segments``."""


@dataclass(frozen=True)
class GraphSegment:
    """One segment: its number within the source, and its rows in batches of a ``SOURCE_*``."""

    seq: int
    kind: Literal["nodes", "edges"]
    batches: tuple[pa.RecordBatch, ...]


class Segments(Protocol):
    """The segments of one source."""

    def after(self, seq: int) -> AsyncIterator[GraphSegment]:
        """Those with a higher number, in order."""
        ...


class PipelinesConfig(ConnectorConfig):
    """Nothing is to be set."""


class PipelinesSession:
    """Reads segments; ``None`` where tools run, which need none."""

    def __init__(self, segments: Segments | None) -> None:
        self._segments = segments

    async def check(self) -> None:
        """There is nothing to reach."""

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        """Segments after the cursor, all of them with ``full``; later records win.

        Raises:
            SourceConfigError: this session was not opened for a sync.
        """
        if self._segments is None:
            raise fault("config", "the segments of pipelines are read by syncs alone")
        last = 0 if full else int(cursors.get(STREAM, {}).get("seq", 0))
        yield Mode(full=full)
        async for segment in self._segments.after(last):
            for rows in segment.batches:
                yield Batch(segment.kind, rows)
            last = segment.seq
        yield Checkpoint(STREAM, {"seq": last})

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """Refuse: pipelines offer no tools.

        Raises:
            ToolNotFoundError: always.
        """
        raise ToolNotFoundError(
            f"this source offers no tool {tool!r}; query its records in the context engine",
            tool=tool,
        )

    async def close(self) -> None:
        """Nothing is held between calls."""


class PipelinesConnector:
    """What pipelines of a realm took, as one source."""

    spec = ConnectorSpec(
        name=CONNECTOR,
        title="Continuous pipelines",
        description="Records that the continuous pipelines of a realm have taken.",
        version="1",
        config_model=PipelinesConfig,
        default_realm="default",
        incremental=True,
        reports_deletions=True,  # nothing goes away by not being sent again
        internal=True,
    )

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> PipelinesConfig:
        """Read a config.

        Raises:
            SourceConfigError: kind ``config``.
        """
        return read_config(PipelinesConfig, config)

    def tools(self, config: Any) -> list[ToolSpec]:
        """None."""
        return []

    async def open(self, config: Any, context: SessionContext) -> Session:
        """A session on the segments that the context holds."""
        return PipelinesSession(cast("Segments | None", context.extra.get(READER)))
