"""``POST /v1/chat/completions`` in OpenAI's form, ``POST /v1/messages`` in Anthropic's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.routes.v1 import anthropic_requests, openai_requests
from agentcy_ray.api.routes.v1.answering import answer
from agentcy_ray.api.routes.v1.anthropic_answers import AnthropicWriter
from agentcy_ray.api.routes.v1.anthropic_requests import MessagesRequest
from agentcy_ray.api.routes.v1.openai_answers import OpenAiWriter
from agentcy_ray.api.routes.v1.openai_requests import ChatRequest

router = APIRouter(tags=["v1"])
Invoker = Annotated[Allowed, permit("llm.invoke")]


def _answers(kind: str) -> dict[int | str, dict[str, Any]]:
    example = {"application/json": {}, "text/event-stream": {}}
    return {200: {"content": example, "description": f"A {kind}; events with `stream: true`."}}


@router.post("/chat/completions", responses=_answers("`chat.completion`"))
async def chat_completion(body: ChatRequest, caller: Invoker, request: Request) -> Response:
    """A chat completion as OpenAI's clients know it.

    `provider:model` answers plainly, and its tool calls go back to the caller. `agent:NAME` runs
    the governed loop with the platform's own tools; `x_agentcy` tells its run, approvals that wait,
    and citations. A client that leaves cancels the run unless `x_agentcy.on_disconnect` of the body
    is `continue`.
    """
    return await answer(request, caller, openai_requests.asked(body), OpenAiWriter())


@router.post("/messages", responses=_answers("`message`"))
async def message(body: MessagesRequest, caller: Invoker, request: Request) -> Response:
    """A message as Anthropic's clients know it; models and agents as in chat completions."""
    return await answer(request, caller, anthropic_requests.asked(body), AnthropicWriter())
