"""What an answer is made of, whoever gives it and in whichever form it is written.

A source yields pieces; the last is always ``Finish``. ``Idle`` stands for a while without any.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from agentcy_ray.core.errors import ModelError
from agentcy_ray.core.events import Usage
from agentcy_ray.llm.model import Record, ToolUse

Reason = Literal["end", "stop", "tool_calls", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Words:
    """More of the answer; ``seq`` is the event of the run's log that brought it."""

    text: str
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the caller is to run."""

    call: ToolUse


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about the run that only we know, for ``x_agentcy``."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Void:
    """A turn was begun anew: the words from event ``from_seq`` on do not count."""

    from_seq: int
    message: str


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing came for a while."""


class Finish(Record):
    """The answer is over."""

    reason: Reason
    usage: Usage
    stop_sequence: str | None = None
    """The stop text that was met, where we know it."""
    notes: dict[str, Any] | None = None
    """Of a run, for ``x_agentcy``."""


Piece = Words | Reasoning | Call | Notice | Void | Idle | Finish
Pieces = AsyncGenerator[Piece]


class Spoken(Record):
    """A whole answer."""

    text: str
    reasoning: str
    calls: tuple[ToolUse, ...]
    finish: Finish

    async def pieces(self) -> Pieces:
        """The answer as a source."""
        if self.reasoning:
            yield Reasoning(self.reasoning)
        if self.text:
            yield Words(self.text)
        for call in self.calls:
            yield Call(call)
        yield self.finish


async def gathered(pieces: Pieces) -> Spoken:
    """Everything that a source yields, void words left out.

    Raises:
        AgentcyError: the source failed.
    """
    words: list[Words] = []
    reasoning: list[str] = []
    calls: list[ToolUse] = []
    async with aclosing(pieces):
        async for piece in pieces:
            match piece:
                case Words():
                    words.append(piece)
                case Reasoning(text):
                    reasoning.append(text)
                case Call(call):
                    calls.append(call)
                case Void(from_seq=seq):
                    words = [word for word in words if word.seq < seq]
                case Finish():
                    return Spoken(
                        text="".join(word.text for word in words),
                        reasoning="".join(reasoning),
                        calls=tuple(calls),
                        finish=piece,
                    )
                case Notice() | Idle():
                    pass
    raise ModelError("the answer ended without an end; repeat the request")
