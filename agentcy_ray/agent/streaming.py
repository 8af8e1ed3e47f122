"""One model turn on its way into the run log.

The model's tokens are gathered while the log is being written, so the log gets at most one delta in
``STREAM_COALESCE_MS`` or ``STREAM_COALESCE_CHARS``, and a slow database makes deltas longer rather
than the stream slower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from itertools import groupby

from agentcy_ray.agent.citations import CitationStream
from agentcy_ray.agent.runlog import NewEvent
from agentcy_ray.core.errors import ModelError
from agentcy_ray.core.events import EventType
from agentcy_ray.core.repair import repaired_text
from agentcy_ray.llm.model import Done, Model, ModelRequest, TextDelta, ThinkingDelta

Append = Callable[[Sequence[NewEvent]], Awaitable[object]]


class DeltaWriter:
    """Gathers words and writes them: ``content_delta``, and ``thinking_delta`` for reasoning."""

    def __init__(
        self,
        append: Append,
        citations: CitationStream,
        *,
        every_ms: int,
        every_chars: int,
        lead: str = "",
    ) -> None:
        """``lead`` goes before the first words, if there are any."""
        self._append = append
        self._citations = citations
        self._every_secs = every_ms / 1000
        self._every_chars = every_chars
        self._lead = lead
        self._waiting: list[tuple[EventType, str]] = []
        self._size = 0
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._closing = False
        self._said: list[str] = []
        self._task: asyncio.Task[None] | None = None
        """Runs from the first words on: most turns that call tools have none."""

    @property
    def said(self) -> str:
        """What has been written of the answer, citation keys checked."""
        return "".join(self._said)

    def add(self, text: str) -> None:
        """Words to be written soon.

        Raises:
            LeaseLostError, StoreUnavailableError: an earlier write failed.
        """
        self._hold(EventType.CONTENT_DELTA, text)

    def think(self, text: str) -> None:
        """Reasoning to be written soon; it is no part of what was said.

        Raises:
            LeaseLostError, StoreUnavailableError: an earlier write failed.
        """
        self._hold(EventType.THINKING_DELTA, text)

    def _hold(self, kind: EventType, text: str) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="delta-writer")
        elif self._task.done():
            self._task.result()
        self._waiting.append((kind, text))
        self._size += len(text)
        self._some.set()
        if self._size >= self._every_chars:
            self._enough.set()

    async def close(self) -> None:
        """Write the rest.

        Raises:
            LeaseLostError, StoreUnavailableError: a write failed.
        """
        self._closing = True
        self._some.set()
        self._enough.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await self._flush()
            if self._closing and not self._waiting:
                break
            try:
                async with asyncio.timeout(self._every_secs):
                    await self._enough.wait()
            except TimeoutError:
                continue
        text, citations = self._citations.finish()
        await self._append([*self._said_as_events(text), *citations])

    async def _flush(self) -> None:
        events: list[NewEvent] = []
        for kind, pieces in groupby(self._waiting, key=lambda piece: piece[0]):
            text = repaired_text("".join(text for _, text in pieces))
            if kind is EventType.THINKING_DELTA:
                events.append((kind, {"delta": text}))
                continue
            text, citations = self._citations.feed(text)
            events += [*self._said_as_events(text), *citations]
        self._waiting.clear()
        self._size = 0
        if not self._closing:
            self._some.clear()
            self._enough.clear()
        await self._append(events)

    def _said_as_events(self, text: str) -> list[NewEvent]:
        if not text:
            return []
        text, self._lead = self._lead + text, ""
        self._said.append(text)
        return [(EventType.CONTENT_DELTA, {"delta": text})]


async def stream_turn(
    model: Model, request: ModelRequest, writer: DeltaWriter, *, reasoning: bool = False
) -> Done:
    """Run one model turn; its words go to ``writer``. Leaving early closes the provider's stream.

    Args:
        model: who answers.
        request: what it is asked.
        writer: where its words go.
        reasoning: whether its reasoning goes there too.

    Raises:
        ModelError: the provider failed, or ended without saying so.
        LeaseLostError, StoreUnavailableError: the log could not be written.
    """
    done: Done | None = None
    try:
        async with aclosing(model.stream(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    writer.add(event.text)
                elif isinstance(event, ThinkingDelta) and reasoning:
                    writer.think(event.text)
                elif isinstance(event, Done):
                    done = event
    finally:
        await writer.close()
    if done is None:
        raise ModelError(
            f"{model.reference} ended its stream without an end", model=model.reference
        )
    return done
