"""Coalescing of deltas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from agentcy_ray.agent.citations import Citations, CitationStream
from agentcy_ray.agent.runlog import NewEvent
from agentcy_ray.agent.streaming import DeltaWriter, stream_turn
from agentcy_ray.core.errors import LeaseLostError, ModelError
from agentcy_ray.core.events import EventType, Usage
from agentcy_ray.llm.model import Done, Message, ModelEvent, ModelRequest, TextDelta

REQUEST = ModelRequest(system="", messages=())


class Log:
    """Collects what is written; a write ends when it is let."""

    def __init__(self) -> None:
        self.deltas: list[str] = []
        self.slow: asyncio.Event | None = None
        self.began = asyncio.Event()
        self.written = asyncio.Condition()
        self.fault: Exception | None = None

    async def append(self, events: Sequence[NewEvent]) -> None:
        self.began.set()
        if self.slow is not None:
            await self.slow.wait()
        if self.fault is not None:
            raise self.fault
        async with self.written:
            self.deltas += [data["delta"] for _, data in events]
            self.written.notify_all()

    async def holds(self, *deltas: str) -> None:
        """Return once exactly these have been written."""
        async with asyncio.timeout(60), self.written:
            await self.written.wait_for(lambda: self.deltas == list(deltas))


class Speaker:
    """A model that says the given words."""

    reference = "test:speaker"
    window = 1000

    def __init__(self, *words: str, done: bool = True) -> None:
        self.words = words
        self.done = done
        self.closed = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        try:
            for word in self.words:
                yield TextDelta(word)
                await asyncio.sleep(0)
            if self.done:
                yield Done(Message.say("assistant", "".join(self.words)), Usage(), "end_turn")
        finally:
            self.closed.set()


def writer_to(log: Log, *, every_ms: int = 60_000, every_chars: int = 256) -> DeltaWriter:
    citations = CitationStream(Citations())
    return DeltaWriter(log.append, citations, every_ms=every_ms, every_chars=every_chars)


@pytest.mark.requirement("SSE-04")
async def test_after_the_first_words_deltas_are_gathered_to_the_limit_of_characters() -> None:
    log = Log()
    writer = writer_to(log)
    await stream_turn(Speaker(*["four"] * 200), REQUEST, writer)
    assert "".join(log.deltas) == "four" * 200 == writer.said
    assert log.deltas[0].startswith("four")
    assert all(len(delta) >= 256 for delta in log.deltas[1:-1])
    assert len(log.deltas) <= 2 + 800 // 256


@pytest.mark.requirement("SSE-04")
async def test_a_slow_log_makes_longer_deltas_and_does_not_hold_the_model_up() -> None:
    log = Log()
    log.slow = asyncio.Event()
    writer = writer_to(log)
    speaker = Speaker(*["word"] * 300)
    turn = asyncio.create_task(stream_turn(speaker, REQUEST, writer))
    await asyncio.wait_for(log.began.wait(), 60)
    await asyncio.wait_for(speaker.closed.wait(), 60)
    log.slow.set()
    await asyncio.wait_for(turn, 60)
    assert "".join(log.deltas) == "word" * 300
    assert len(log.deltas) == 2


async def test_words_go_out_after_the_interval_without_more_of_them() -> None:
    log = Log()
    writer = writer_to(log, every_ms=1)
    writer.add("one")
    await log.holds("one")
    writer.add("two")
    await log.holds("one", "two")
    await writer.close()


async def test_reasoning_is_told_in_its_place_and_is_no_part_of_what_was_said() -> None:
    written: list[NewEvent] = []

    async def append(events: Sequence[NewEvent]) -> None:
        written.extend(events)

    writer = DeltaWriter(
        append, CitationStream(Citations()), every_ms=60_000, every_chars=256, lead="\n\n"
    )
    for word in ("Let me ", "see. "):
        writer.think(word)
    writer.add("It is ")
    writer.add("this.")
    writer.think("Is it?")
    writer.add(" Yes.")
    await writer.close()
    assert written == [
        (EventType.THINKING_DELTA, {"delta": "Let me see. "}),
        (EventType.CONTENT_DELTA, {"delta": "\n\nIt is this."}),
        (EventType.THINKING_DELTA, {"delta": "Is it?"}),
        (EventType.CONTENT_DELTA, {"delta": " Yes."}),
    ]
    assert writer.said == "\n\nIt is this. Yes."


async def test_a_log_that_refuses_stops_the_model() -> None:
    log = Log()
    log.fault = LeaseLostError("gone")
    speaker = Speaker(*["word"] * 10_000)
    with pytest.raises(LeaseLostError):
        await asyncio.wait_for(stream_turn(speaker, REQUEST, writer_to(log)), 60)
    assert speaker.closed.is_set()


async def test_a_stream_without_an_end_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="without an end"):
        await stream_turn(Speaker("half", done=False), REQUEST, writer_to(Log()))


async def test_a_cancelled_turn_closes_the_model_and_keeps_what_was_shown() -> None:
    log = Log()
    writer = writer_to(log)
    speaker = Speaker(*["word "] * 100_000)
    turn = asyncio.create_task(stream_turn(speaker, REQUEST, writer))
    await asyncio.wait_for(log.began.wait(), 60)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert speaker.closed.is_set()
    assert writer.said == "".join(log.deltas)
    assert writer.said.startswith("word ")
