"""A request of either vendor's form as we understand it, and whom it is put to."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from agentcy_ray.agent.profiles import AgentProfile
from agentcy_ray.agent.run_records import NewRun, Said, choose_model
from agentcy_ray.api.permit import Allowed
from agentcy_ray.api.services import Services
from agentcy_ray.core.errors import InvalidError, NotFoundError
from agentcy_ray.llm.model import Model, ModelRequest, Record, ToolReply

AGENT = "agent:"


class Extension(BaseModel):
    """``x_agentcy`` of a request: what only a governed run understands."""

    on_disconnect: Literal["continue", "cancel"] = "cancel"
    realm: str | None = Field(default=None, max_length=64)


class Asked(Record):
    """What is asked, of whom, and how the answer is to come."""

    model: str
    request: ModelRequest
    stream: bool = False
    include_usage: bool = False
    extension: Extension = Extension()


def bad(field: str, message: str) -> InvalidError:
    """A refusal that names the field of the body."""
    return InvalidError(message, errors=[{"loc": [field], "message": message}])


async def chosen(services: Services, caller: Allowed, reference: str) -> Model | AgentProfile:
    """The model or the agent behind the name that the body gives.

    Raises:
        NotFoundError: ``model_not_found``.
    """
    try:
        if reference.startswith(AGENT):
            return await services.agents.by_name(caller.org_id, reference.removeprefix(AGENT))
        return services.models.resolve(reference)
    except (InvalidError, NotFoundError) as error:
        raise NotFoundError(
            f"{error.message}; GET /v1/models lists what there is",
            code="model_not_found",
            errors=[{"loc": ["model"], "message": "there is no such model"}],
        ) from None


async def new_run(services: Services, caller: Allowed, agent: AgentProfile, asked: Asked) -> NewRun:
    """The governed run that an agent is asked for.

    Raises:
        InvalidError: the request asks for what an agent decides itself, or no question stands last.
        NotFoundError: the agent's own model is not there.
    """
    request = asked.request
    refused = {
        "tools": (bool(request.tools), "an agent has tools of its own; leave tools out"),
        "response_format": (request.json_answer is not None, "an agent answers in words"),
        "stop": (bool(request.stop), "an agent's run cannot be stopped at a text"),
    }
    for field, (given, why) in refused.items():
        if given:
            raise bad(field, f"{why}, or name provider:model for a plain completion")
    *before, last = request.messages
    replies = any(isinstance(part, ToolReply) for part in last.parts)
    if last.role != "user" or replies or not last.text.strip():
        raise bad("messages", "the last message must be the user's question, in words")
    if asked.extension.realm is not None:
        realms = await services.allowed_realms(caller.principal, [asked.extension.realm])
        if realms == ():
            raise bad("x_agentcy", f"realm {asked.extension.realm!r} is not open to you")
    model = choose_model(None, agent, None, services.models.default_reference())
    services.models.resolve(model)
    return NewRun(
        kind="openai",
        agent=agent,
        model=model,
        realm=asked.extension.realm,
        text=last.text,
        history=tuple(Said(role=said.role, text=said.text) for said in before if said.text),
        instructions=request.system or None,
        on_disconnect=asked.extension.on_disconnect,
        request_id=caller.request_id,
    )
