"""Requests in OpenAI's form. Fields that would change the answer and that we cannot honour are
refused; others that we do not know are passed over, since clients send all sorts of them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from agentcy_ray.api.routes.v1.asked import Asked, Extension, bad
from agentcy_ray.core.errors import InvalidError
from agentcy_ray.llm.model import (
    JsonAnswer,
    Message,
    ModelRequest,
    Part,
    Text,
    ToolOffer,
    ToolReply,
    ToolUse,
)

StopText = Annotated[str, Field(min_length=1, max_length=500)]


class ContentPart(BaseModel):
    """Part of a message; only ``text`` is read."""

    type: str
    text: str | None = None


class FunctionCall(BaseModel):
    """What the model asked for earlier."""

    name: str = Field(min_length=1, max_length=200)
    arguments: str = ""


class ToolCall(BaseModel):
    """A call of an earlier turn."""

    id: str = Field(min_length=1, max_length=200)
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(BaseModel):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")
    description: str = ""
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """A tool on offer."""

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """The name of a function."""

    name: str


class NamedTool(BaseModel):
    """The one tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(BaseModel):
    """A schema that the answer must take."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict[str, Any])
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """Words, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(BaseModel):
    """How the stream ends."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``."""

    model: str = Field(
        min_length=1,
        max_length=4_000,
        description="`agent:NAME` for a governed run, `provider:model` for a plain completion.",
        examples=["agent:default", "anthropic:claude-sonnet-5-5"],
    )
    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = Field(default=None, max_length=256)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int | None = None
    logprobs: bool | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[str] | None = None
    functions: list[Any] | None = None
    x_agentcy: Extension = Extension()


def asked(body: ChatRequest) -> Asked:
    """What a body asks for.

    Raises:
        InvalidError: it asks for something that is not served here, or contradicts itself.
    """
    _refuse(body)
    system, messages = _conversation(body.messages)
    choice = body.tool_choice
    return Asked(
        model=body.model,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        extension=body.x_agentcy,
        request=ModelRequest(
            system=system,
            messages=messages,
            tools=tuple(
                ToolOffer(
                    name=tool.function.name,
                    description=tool.function.description,
                    input_schema=tool.function.parameters or {"type": "object", "properties": {}},
                )
                for tool in body.tools or ()
            ),
            tool_choice=choice if isinstance(choice, str) else "auto",
            only_tool=_only_tool(body) if isinstance(choice, NamedTool) else None,
            parallel_tool_calls=body.parallel_tool_calls,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
            json_answer=_json_answer(body.response_format),
        ),
    )


def _refuse(body: ChatRequest) -> None:
    refused = (
        (
            "n",
            body.n not in (None, 1),
            "one answer is given to a request; send n=1 or leave it out",
        ),
        ("logprobs", bool(body.logprobs), "logprobs are not served; leave them out"),
        ("presence_penalty", bool(body.presence_penalty), "penalties are not served; send 0"),
        ("frequency_penalty", bool(body.frequency_penalty), "penalties are not served; send 0"),
        ("logit_bias", bool(body.logit_bias), "logit_bias is not served; leave it out"),
        ("modalities", body.modalities not in (None, ["text"]), "answers are text; ask for text"),
        ("functions", bool(body.functions), "functions are no longer read; send tools"),
    )
    for field, given, why in refused:
        if given:
            raise bad(field, why)


def _only_tool(body: ChatRequest) -> str:
    assert isinstance(body.tool_choice, NamedTool)
    name = body.tool_choice.function.name
    if name not in {tool.function.name for tool in body.tools or ()}:
        raise bad(
            "tool_choice", f"tool {name!r} is not among the tools; offer it or choose another"
        )
    return name


def _json_answer(wanted: ResponseFormat | None) -> JsonAnswer | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JsonAnswer()
    schema = wanted.json_schema
    if schema is None:
        raise bad("response_format", "give response_format.json_schema with a name and a schema")
    return JsonAnswer(
        name=schema.name,
        description=schema.description,
        json_schema=schema.schema_,
        strict=schema.strict,
    )


def _conversation(said: list[ChatMessage]) -> tuple[str, tuple[Message, ...]]:
    """System text and turns; replies of tools and the words after them are one turn."""
    system: list[str] = []
    turns: list[tuple[Literal["user", "assistant"], list[Part]]] = []
    names: dict[str, str] = {}
    for place, message in enumerate(said):
        at = f"messages.{place}"
        text = _text(message.content, f"{at}.content")
        if message.role in ("system", "developer"):
            system.append(text)
            continue
        if message.role == "assistant":
            calls = [_tool_use(call) for call in message.tool_calls or ()]
            names |= {call.id: call.name for call in calls}
            turns.append(("assistant", [*_words(text), *calls]))
            continue
        parts: list[Part] = _words(text)
        if message.role == "tool":
            call_id = message.tool_call_id or ""
            if call_id not in names:
                raise bad(f"{at}.tool_call_id", f"no earlier call has the id {call_id!r}; send it")
            parts = [ToolReply(id=call_id, name=names[call_id], text=text)]
        if turns and turns[-1][0] == "user":
            turns[-1][1].extend(parts)
        else:
            turns.append(("user", parts))
    messages = tuple(Message(role=role, parts=tuple(parts)) for role, parts in turns if parts)
    if not messages:
        raise bad("messages", "there is nothing to answer; send a user message with some words")
    return "\n\n".join(filter(None, system)), messages


def _words(text: str) -> list[Part]:
    return [Text(text=text)] if text else []


def _text(content: str | list[ContentPart] | None, at: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for place, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise unread(f"{at}.{place}", part.type)
    return "\n".join(part.text or "" for part in content)


def unread(at: str, kind: str) -> InvalidError:
    """The refusal of a part that is no text."""
    return bad(at, f"parts of type {kind!r} are not read; send text")


def _tool_use(call: ToolCall) -> ToolUse:
    raw, args, invalid = call.function.arguments, {}, None
    try:
        value = json.loads(raw or "{}")
        args, invalid = (value, None) if isinstance(value, dict) else ({}, raw)
    except (ValueError, RecursionError):
        invalid = raw
    return ToolUse(id=call.id, name=call.function.name, args=args, invalid=invalid)
