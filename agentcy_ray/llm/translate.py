"""Our records ↔ pydantic-ai's messages, for the models that providers serve.

Imported only when a provider is first used: pydantic-ai and the provider SDKs take seconds to load.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.messages import ModelRequest as LibraryRequest
from pydantic_ai.models import Model as LibraryModel
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from agentcy_ray.llm.model import (
    Message,
    ModelEvent,
    ModelRequest,
    Part,
    StopReason,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallReady,
    ToolReply,
    ToolUse,
)


def messages_of(request: ModelRequest) -> list[ModelMessage]:
    """The request's messages in the library's form; the system text goes as instructions."""
    found: list[ModelMessage] = []
    for message in request.messages:
        if message.role == "user":
            parts = [_request_part(part) for part in message.parts]
            found.append(LibraryRequest(parts=parts, instructions=request.system or None))
        else:
            found.append(ModelResponse(parts=[_response_part(part) for part in message.parts]))
    return found


def can_answer_in_json(request: ModelRequest, library: LibraryModel[Any]) -> bool:
    """Whether the provider holds the model to the JSON that the request asks for."""
    if request.json_answer is None:
        return True
    schema = request.json_answer.json_schema is not None
    return bool(
        library.profile.get(
            "supports_json_schema_output" if schema else "supports_json_object_output", False
        )
    )


def parameters_of(request: ModelRequest) -> ModelRequestParameters:
    """The tools on offer, and the form of the answer."""
    answer = request.json_answer
    output: OutputObjectDefinition | None = None
    mode: Literal["text", "native", "prompted"] = "text"
    if answer is not None:
        mode = "prompted" if answer.json_schema is None else "native"
    if answer is not None and answer.json_schema is not None:
        output = OutputObjectDefinition(
            json_schema=answer.json_schema,
            name=answer.name,
            description=answer.description,
            strict=answer.strict,
        )
    return ModelRequestParameters(
        output_mode=mode,
        output_object=output,
        prompted_output_template=False if mode == "prompted" else None,
        function_tools=[
            ToolDefinition(
                name=tool.name,
                description=tool.description,
                parameters_json_schema=tool.input_schema,
                strict=False,
            )
            for tool in request.tools
        ],
    )


def settings_of(
    request: ModelRequest, *, first_token_secs: float, quiet_sdk: bool
) -> ModelSettings:
    """Sampling and limits. ``quiet_sdk`` turns off an SDK's own retries, where it has them."""
    settings = ModelSettings(first_event_timeout=first_token_secs, cache=True)
    if quiet_sdk:
        settings["max_retries"] = 0
    if request.max_tokens is not None:
        settings["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        settings["temperature"] = request.temperature
    if request.top_p is not None:
        settings["top_p"] = request.top_p
    if request.stop:
        settings["stop_sequences"] = list(request.stop)
    if request.tools and request.only_tool is not None:
        settings["tool_choice"] = [request.only_tool]
    elif request.tools and request.tool_choice != "auto":
        settings["tool_choice"] = request.tool_choice
    if request.tools and request.parallel_tool_calls is not None:
        settings["parallel_tool_calls"] = request.parallel_tool_calls
    return settings


def message_of(response: ModelResponse) -> Message:
    """The model's turn as our record; parts that we do not know are left out."""
    parts: list[Part] = []
    for part in response.parts:
        if isinstance(part, TextPart):
            if part.content:
                parts.append(Text(text=part.content))
        elif isinstance(part, ThinkingPart):
            parts.append(
                Thinking(
                    text=part.content,
                    id=part.id,
                    signature=part.signature,
                    provider=part.provider_name,
                    details=part.provider_details,
                )
            )
        elif isinstance(part, ToolCallPart):
            parts.append(call_of(part))
    return Message(role="assistant", parts=tuple(parts))


def call_of(part: ToolCallPart) -> ToolUse:
    """A tool call; arguments that are no JSON object are kept as ``invalid`` text."""
    args, invalid = _arguments(part.args)
    return ToolUse(
        id=part.tool_call_id,
        name=part.tool_name,
        args=args,
        invalid=invalid,
        provider=part.provider_name,
        details=part.provider_details,
    )


def event_of(event: ModelResponseStreamEvent) -> ModelEvent | None:
    """A streamed event in our words; None for those that say nothing to a reader."""
    match event:
        case PartStartEvent(part=TextPart(content=text)) if text:
            return TextDelta(text)
        case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text:
            return TextDelta(text)
        case PartStartEvent(part=ThinkingPart(content=text)) if text:
            return ThinkingDelta(text)
        case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=text)) if text:
            return ThinkingDelta(text)
        case PartDeltaEvent(delta=ToolCallPartDelta(args_delta=str(args)) as delta) if args:
            return ToolCallDelta(delta.tool_call_id or "", delta.tool_name_delta or "", args)
        case PartEndEvent(part=ToolCallPart() as part):
            return ToolCallReady(call_of(part))
        case _:
            return None


def stop_reason_of(response: ModelResponse, message: Message) -> StopReason:
    """Why the turn ended, in our words."""
    if response.finish_reason == "length":
        return "max_tokens"
    if response.finish_reason == "content_filter":
        return "content_filter"
    if (response.provider_details or {}).get("finish_reason") == "stop_sequence":
        return "stop_text"
    return "tool_calls" if message.tool_calls else "end_turn"


def _arguments(raw: str | dict[str, Any] | None) -> tuple[dict[str, Any], str | None]:
    if raw is None or raw == "":
        return {}, None
    if isinstance(raw, dict):
        return raw, None
    try:
        value = json.loads(raw)
    except ValueError:
        return {}, raw
    return (value, None) if isinstance(value, dict) else ({}, raw)


def _request_part(part: Part) -> ModelRequestPart:
    if isinstance(part, ToolReply):
        return ToolReturnPart(
            tool_name=part.name,
            content=part.text,
            tool_call_id=part.id,
            outcome="failed" if part.is_error else "success",
        )
    if isinstance(part, Text):
        return UserPromptPart(part.text)
    raise TypeError(f"a user message holds text and tool results, not {part.kind}")


def _response_part(part: Part) -> ModelResponsePart:
    if isinstance(part, Text):
        return TextPart(part.text)
    if isinstance(part, Thinking):
        return ThinkingPart(
            part.text,
            id=part.id,
            signature=part.signature,
            provider_name=part.provider,
            provider_details=part.details,
        )
    if isinstance(part, ToolUse):
        return ToolCallPart(
            tool_name=part.name,
            args=part.args,
            tool_call_id=part.id,
            provider_name=part.provider,
            provider_details=part.details,
        )
    raise TypeError(f"an assistant message holds no {part.kind}")
