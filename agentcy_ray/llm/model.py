"""The seam between the agent loop and a language model.

A model takes one ``ModelRequest`` and streams ``ModelEvent`` values; the last is always ``Done``.
The records are our own, so that the run log, a successor process and every provider speak the same
words, and they are JSON, since completed turns are stored with them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.events import Usage
from agentcy_ray.core.repair import repaired

CleanText = Annotated[str, BeforeValidator(repaired)]
CleanJson = Annotated[dict[str, Any], BeforeValidator(repaired)]
StopReason = Literal["end_turn", "stop_text", "tool_calls", "max_tokens", "content_filter"]
"""``stop_text`` where a provider tells that from an end of its own."""


class Record(BaseModel):
    """Base of the frozen records below."""

    model_config = ConfigDict(frozen=True)


# -- messages -----------------------------------------------------------------------------------


class Text(Record):
    """Words."""

    kind: Literal["text"] = "text"
    text: CleanText


class Thinking(Record):
    """Reasoning, sent back only to the provider that signed it."""

    kind: Literal["thinking"] = "thinking"
    text: CleanText
    id: str | None = None
    signature: str | None = None
    provider: str | None = None
    details: dict[str, Any] | None = None


class ToolUse(Record):
    """A call that the model asks for; ``name`` is the name of an offered tool."""

    kind: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    args: CleanJson
    invalid: CleanText | None = None
    """The raw text when the model's arguments are no JSON object; ``args`` is then empty."""
    provider: str | None = None
    details: dict[str, Any] | None = None


class ToolReply(Record):
    """What came back from a call, as text."""

    kind: Literal["tool_result"] = "tool_result"
    id: str
    name: str
    text: CleanText
    is_error: bool = False


Part = Annotated[Text | Thinking | ToolUse | ToolReply, Field(discriminator="kind")]


class Message(Record):
    """One side's turn. Tool results travel in a ``user`` message."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The words of the turn, parts joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolUse, ...]:
        """The calls of the turn in the model's order."""
        return tuple(part for part in self.parts if isinstance(part, ToolUse))

    @classmethod
    def say(cls, role: Literal["user", "assistant"], text: str) -> Message:
        """A message of words only."""
        return cls(role=role, parts=(Text(text=text),))


# -- a request ----------------------------------------------------------------------------------


class ToolOffer(Record):
    """A tool that the model may call."""

    name: str
    description: str
    input_schema: dict[str, Any]


class Evidence(Record):
    """A retrieved piece with its citation key.

    Its text also stands in the system prompt or a tool result, which is what providers read; the
    structured form is for models that quote instead of generating.
    """

    key: int
    kind: Literal["entity", "passage"]
    node_id: str
    title: str
    text: str
    realm: str
    connector: str
    external_id: str
    url: str | None = None


class JsonAnswer(Record):
    """The answer is to be JSON: any object, or one that its schema takes."""

    name: str = "answer"
    description: str | None = None
    json_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ModelRequest(Record):
    """Everything that a model turn depends on."""

    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolOffer, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    evidence: tuple[Evidence, ...] = ()
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    """Texts before which the model ends its answer."""
    tool_choice: Literal["auto", "none", "required"] = "auto"
    only_tool: str | None = None
    """The one tool that the model must call."""
    parallel_tool_calls: bool | None = None
    json_answer: JsonAnswer | None = None


# -- what streams back --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More words."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call's arguments, as raw JSON text."""

    id: str
    name: str
    args_delta: str


@dataclass(frozen=True, slots=True)
class ToolCallReady:
    """A call is complete."""

    call: ToolUse


@dataclass(frozen=True, slots=True)
class Done:
    """The turn is over: the whole message, what it cost and why it ended."""

    message: Message
    usage: Usage
    stop_reason: StopReason


ModelEvent = TextDelta | ThinkingDelta | ToolCallDelta | ToolCallReady | Done


class Model(Protocol):
    """A language model behind a reference such as ``anthropic:claude-sonnet-5-5``."""

    @property
    def reference(self) -> str:
        """``provider:model``."""
        ...

    @property
    def window(self) -> int:
        """Context window in tokens."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        """One turn. Closing the generator closes the provider's stream.

        Raises:
            ModelError: the provider refused or failed; nothing was retried after the first event.
            ModelTimeoutError: no first token came in time.
        """
        ...


def refuse_json(request: ModelRequest, reference: str) -> None:
    """For models that cannot be held to JSON.

    Raises:
        InvalidError: the request asks for it.
    """
    if request.json_answer is not None:
        raise InvalidError(
            f"{reference} cannot be held to this form of JSON; leave response_format out, or name "
            "another model",
            errors=[{"loc": ["response_format"], "message": "not supported by the model"}],
        )


def estimate_tokens(text: str) -> int:
    """Rough token count of ``text``: four bytes a token, which overestimates English slightly."""
    return len(text.encode()) // 4 + 1
