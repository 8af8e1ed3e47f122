"""Reading a source into a package: one connector session, batch by batch.

The next batch is read while the one before is addressed and sorted on a thread. A row that cannot
be read or addressed is put aside; when more than 5 % are, the extract fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from agentcy_ray.connectors.base import (
    Batch,
    Checkpoint,
    ConnectorSpec,
    Cursors,
    ExtractItem,
    Mode,
    Progress,
    Rejected,
    Session,
)
from agentcy_ray.core.errors import AgentcyError, ConnectorError, InvalidError
from agentcy_ray.ingest.packages import PackageWriter
from agentcy_ray.ingest.progress import Beats, Meter

REJECTS_KEPT = 100
REJECTED_RATIO = 0.05
CANCEL_LOOK_SECS = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class OpenedSource:
    """A source with a session to it."""

    spec: ConnectorSpec
    realm: str
    session: Session


OpenSource = Callable[[UUID, UUID], AbstractAsyncContextManager[OpenedSource]]
"""(organisation, source) → the source, opened for the length of the context."""


@dataclass
class Extracted:
    """What an extract turned out to be."""

    full: bool
    note: str = ""
    cursors: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)
    """The first hundred."""
    rejected: int = 0

    def reject(self, rows: tuple[Rejected, ...]) -> None:
        """Put rows aside."""
        room = max(0, REJECTS_KEPT - len(self.rejects))
        self.rejects += [{"where": row.where, "reason": row.reason} for row in rows[:room]]
        self.rejected += len(rows)


async def extract(
    opened: OpenedSource,
    writer: PackageWriter,
    cursors: Cursors,
    *,
    full: bool,
    beat: Beats,
    meter: Meter,
) -> Extracted:
    """Read everything, or what changed since ``cursors``, into ``writer``.

    Raises:
        SourceConfigError, ConnectorError: the source cannot be read.
        CancelledByRequestError: somebody called the sync off.
        InvalidError: more than 5 % of the rows were rejected.
        StorageFullError: the disk is full.
    """
    track = meter.start("extract", "rows")
    result = Extracted(full)
    adding: asyncio.Task[tuple[Rejected, ...]] | None = None
    own_progress = False
    items = opened.session.extract(cursors, full=full)
    try:
        async for item in _watched(items, beat):
            match item:
                case Batch():
                    if adding is not None:
                        result.reject(await adding)
                    adding = asyncio.create_task(asyncio.to_thread(writer.add, item))
                    if not own_progress:
                        meter.add(track, item.rows.num_rows)
                case Checkpoint():
                    result.cursors[item.stream] = dict(item.cursor)
                case Rejected():
                    result.reject((item,))
                case Mode():
                    result.full, result.note = item.full, item.note
                case Progress():
                    own_progress = True
                    meter.at(track, item.done, item.total, item.unit)
        if adding is not None:
            result.reject(await adding)
    finally:
        if adding is not None and not adding.done():
            await asyncio.wait({adding})
    meter.end(track)
    _accept(result, writer.taken)
    return result


def _accept(result: Extracted, taken: int) -> None:
    if result.rejected > REJECTED_RATIO * (taken + result.rejected):
        first = result.rejects[0]
        raise InvalidError(
            f"{result.rejected} of {taken + result.rejected} rows were rejected, more than 5 %; "
            f"first: {first['where']}: {first['reason']}; correct the source and sync again",
            rejected=result.rejected,
            rows=taken + result.rejected,
            errors=result.rejects[:10],
        )


async def _watched(items: AsyncIterator[ExtractItem], beat: Beats) -> AsyncIterator[ExtractItem]:
    """The items of an extract; stops within a second of a cancel, types foreign errors."""
    try:
        while True:
            step = asyncio.ensure_future(_next(items))
            try:
                while not step.done():
                    await asyncio.wait({step}, timeout=CANCEL_LOOK_SECS)
                    beat.check()
            finally:
                if not step.done():
                    step.cancel()
                    await asyncio.wait({step})
            item = _result(step)
            beat.check()
            if item is None:
                return
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


def _result(step: asyncio.Future[T]) -> T:
    try:
        return step.result()
    except (AgentcyError, asyncio.CancelledError):
        raise
    except Exception as error:
        raise ConnectorError(
            f"the connector failed while reading its source: {type(error).__name__}: {error}; "
            "sync again, and report it if it comes back"
        ) from error
