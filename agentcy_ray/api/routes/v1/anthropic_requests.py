"""Requests in Anthropic's form: messages of content blocks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from agentcy_ray.api.routes.v1.asked import Asked, Extension, bad
from agentcy_ray.api.routes.v1.openai_requests import StopText, unread
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


class Block(BaseModel):
    """A content block: ``text``, ``tool_use``, ``tool_result``, or reasoning, which is dropped."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool = False


class InputMessage(BaseModel):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class MessageTool(BaseModel):
    """A tool on offer."""

    type: str | None = None
    name: str = Field(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")
    description: str = ""
    input_schema: dict[str, Any] | None = None


class MessageToolChoice(BaseModel):
    """Whether, and which, tool is called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(BaseModel):
    """How much the model is to think; only ``disabled`` is served."""

    type: str


class OutputFormat(BaseModel):
    """A schema that the answer must take."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    """The form of the answer."""

    format: OutputFormat | None = None


class MessagesRequest(BaseModel):
    """The body of ``POST /v1/messages``."""

    model: str = Field(
        min_length=1,
        max_length=4_000,
        description="`agent:NAME` for a governed run, `provider:model` for a plain completion.",
        examples=["agent:default", "anthropic:claude-sonnet-5-5"],
    )
    max_tokens: int = Field(ge=1)
    messages: list[InputMessage] = Field(min_length=1, max_length=10_000)
    system: str | list[Block] | None = None
    stream: bool | None = None
    stop_sequences: list[StopText] | None = Field(default=None, max_length=16)
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    tools: list[MessageTool] | None = Field(default=None, max_length=256)
    tool_choice: MessageToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    x_agentcy: Extension = Extension()


_CHOICES: dict[str, Literal["auto", "none", "required"]] = {
    "auto": "auto",
    "any": "required",
    "tool": "auto",
    "none": "none",
}


def asked(body: MessagesRequest) -> Asked:
    """What a body asks for.

    Raises:
        InvalidError: it asks for something that is not served here, or contradicts itself.
    """
    if body.thinking is not None and body.thinking.type != "disabled":
        raise bad("thinking", "how much a model thinks is not set by requests; leave thinking out")
    choice = body.tool_choice
    parallel = None
    if choice is not None and choice.disable_parallel_tool_use is not None:
        parallel = not choice.disable_parallel_tool_use
    wanted = body.output_config.format if body.output_config is not None else None
    return Asked(
        model=body.model,
        stream=bool(body.stream),
        extension=body.x_agentcy,
        request=ModelRequest(
            system=_text(body.system, "system"),
            messages=_conversation(body.messages),
            tools=tuple(_offer(tool, place) for place, tool in enumerate(body.tools or ())),
            tool_choice="auto" if choice is None else _CHOICES[choice.type],
            only_tool=_only_tool(body),
            parallel_tool_calls=parallel,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            stop=tuple(body.stop_sequences or ()),
            json_answer=None if wanted is None else JsonAnswer(json_schema=wanted.schema_),
        ),
    )


def _offer(tool: MessageTool, place: int) -> ToolOffer:
    if tool.type not in (None, "custom") or tool.input_schema is None:
        raise bad(
            f"tools.{place}.type",
            f"tool {tool.name!r} is none that the caller runs; give it an input_schema and no type",
        )
    return ToolOffer(name=tool.name, description=tool.description, input_schema=tool.input_schema)


def _only_tool(body: MessagesRequest) -> str | None:
    choice = body.tool_choice
    if choice is None or choice.type != "tool":
        return None
    if choice.name not in {tool.name for tool in body.tools or ()}:
        raise bad("tool_choice", f"tool {choice.name!r} is not among the tools; offer it")
    return choice.name


def _conversation(said: list[InputMessage]) -> tuple[Message, ...]:
    messages: list[Message] = []
    names: dict[str, str] = {}
    for place, message in enumerate(said):
        blocks = message.content
        if isinstance(blocks, str):
            blocks = [Block(type="text", text=blocks)]
        parts: list[Part] = []
        for index, block in enumerate(blocks):
            part = _part(block, message.role, names, f"messages.{place}.content.{index}")
            if part is not None:
                parts.append(part)
        if parts:
            messages.append(Message(role=message.role, parts=tuple(parts)))
    if not messages:
        raise bad("messages", "there is nothing to answer; send a user message with some words")
    return tuple(messages)


def _part(
    block: Block, role: Literal["user", "assistant"], names: dict[str, str], at: str
) -> Part | None:
    """A block as our record; None for an empty text and for reasoning, which is not sent back."""
    match block.type, role:
        case "text", _:
            return Text(text=block.text) if block.text else None
        case (("thinking" | "redacted_thinking"), "assistant"):
            return None
        case "tool_use", "assistant" if block.id and block.name:
            names[block.id] = block.name
            return ToolUse(id=block.id, name=block.name, args=block.input or {})
        case "tool_result", "user":
            call_id = block.tool_use_id or ""
            if call_id not in names:
                raise bad(f"{at}.tool_use_id", f"no earlier tool_use has the id {call_id!r}")
            text = _text(block.content, f"{at}.content")
            return ToolReply(id=call_id, name=names[call_id], text=text, is_error=block.is_error)
        case _:
            raise unread(at, block.type)


def _text(content: str | list[Block] | None, at: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for place, block in enumerate(content):
        if block.type != "text":
            raise unread(f"{at}.{place}", block.type)
    return "\n".join(block.text or "" for block in content)
