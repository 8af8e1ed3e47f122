"""A plain completion: one turn of one model, whose tool calls go back to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from agentcy_ray.api.routes.v1.pieces import (
    Call,
    Finish,
    Idle,
    Piece,
    Pieces,
    Reason,
    Reasoning,
    Words,
)
from agentcy_ray.core.errors import ModelError
from agentcy_ray.core.events import Usage
from agentcy_ray.llm.model import (
    Done,
    Model,
    ModelRequest,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolCallReady,
    estimate_tokens,
)

_REASONS: dict[StopReason, Reason] = {
    "end_turn": "end",
    "stop_text": "stop",
    "tool_calls": "tool_calls",
    "max_tokens": "length",
    "content_filter": "content_filter",
}


class StopCut:
    """Ends a text before the first of some stop texts, wherever the pieces of it are cut.

    Providers do this themselves; models of ours, and servers that ignore the wish, do not.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.met: str | None = None
        """The stop text that was found."""

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if not self._stops:
            return text
        self._held += text
        found = [(place, stop) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            place, self.met = min(found)
            shown, self._held = self._held[:place], ""
            return shown
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def rest(self) -> str:
        """What was held back in case a stop text had begun in it."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` begin ``stop``."""
    return next(
        (
            size
            for size in range(min(len(text), len(stop) - 1), 0, -1)
            if stop.startswith(text[-size:])
        ),
        0,
    )


async def plain_pieces(model: Model, request: ModelRequest) -> Pieces:
    """One turn of ``model``; closing the generator closes the provider's stream.

    Raises:
        ModelError: the provider refused or failed.
        InvalidError: the model cannot do what is asked.
    """
    cut, said = StopCut(request.stop), 0
    async with aclosing(model.stream(request)) as events:
        async for event in events:
            match event:
                case TextDelta(text):
                    said += len(text.encode())
                    shown = cut.feed(text)
                    if shown:
                        yield Words(shown)
                    if cut.met is not None:
                        usage = _estimate(request, said)
                        yield Finish(reason="stop", usage=usage, stop_sequence=cut.met)
                        return
                case ThinkingDelta(text):
                    yield Reasoning(text)
                case ToolCallReady(call):
                    if rest := cut.rest():
                        yield Words(rest)
                    yield Call(call)
                case Done():
                    if rest := cut.rest():
                        yield Words(rest)
                    yield Finish(
                        reason=_REASONS[event.stop_reason],
                        usage=event.usage,
                        stop_sequence=_stop_of(event, request),
                    )
                    return
                case _:
                    pass
    raise ModelError(f"{model.reference} ended its stream without an end", model=model.reference)


def _stop_of(done: Done, request: ModelRequest) -> str | None:
    """The stop text that the provider met, where it can be no other."""
    met = done.stop_reason == "stop_text" and len(request.stop) == 1
    return request.stop[0] if met else None


def _estimate(request: ModelRequest, said: int) -> Usage:
    """Of a turn that was cut off before its provider told what it cost."""
    asked = estimate_tokens(request.model_dump_json(include={"system", "messages", "tools"}))
    return Usage(in_tokens=asked, out_tokens=said // 4 + 1, cost_usd=None, estimated=True)


async def begun(pieces: Pieces, idle_secs: float) -> Pieces:
    """The source, once its first piece is there or ``idle_secs`` have passed, with ``Idle`` put in.

    So a failure at the beginning is an ordinary answer with its own status, not a broken stream.

    Raises:
        AgentcyError: the source failed at once.
    """
    first = asyncio.create_task(_next(pieces))
    try:
        done, _ = await asyncio.wait({first}, timeout=idle_secs)
    except asyncio.CancelledError:
        first.cancel()
        raise
    if done:
        first.result()
    return _with_idle(pieces, first, idle_secs)


async def _with_idle(
    pieces: Pieces, waiting: asyncio.Task[Piece | None], idle_secs: float
) -> Pieces:
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=idle_secs)
            if not done:
                yield Idle()
                continue
            piece = waiting.result()
            if piece is None:
                return
            yield piece
            waiting = asyncio.create_task(_next(pieces))
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await pieces.aclose()


async def _next(pieces: Pieces) -> Piece | None:
    return await anext(pieces, None)
