"""The tool catalog, and direct calls through the same gates as an agent's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from agentcy_ray.api.errors import error_body
from agentcy_ray.api.idempotency import Reply, once
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.connectors.base import Connector, ConnectorSpec
from agentcy_ray.core.errors import (
    AgentcyError,
    ConflictError,
    ConnectorError,
    ConnectorTimeoutError,
    InvalidError,
    NotFoundError,
    OutcomeUnknownError,
    PolicyDeniedError,
    RateLimitedError,
    SourceConfigError,
    TooLargeError,
)
from agentcy_ray.core.ids import ApprovalId, ArtifactId, SourceId, ToolCallId, decode
from agentcy_ray.core.tools import (
    CatalogEntry,
    Effect,
    PolicyNote,
    ToolCall,
    ToolFault,
    ToolResult,
    ToolStatus,
)

router = APIRouter(tags=["tools"])
Reader = Annotated[Allowed, permit("source.read")]
ChatReader = Annotated[Allowed, permit("chat.read")]
ToolCaller = Annotated[Allowed, permit("chat.tool.execute", asked_by_gateway=True)]

_ERRORS: dict[str, type[AgentcyError]] = {
    "policy_denied": PolicyDeniedError,
    "permission_denied": PolicyDeniedError,
    "approval_mismatch": ConflictError,
    "source_ambiguous": ConflictError,
    "quota_exceeded": RateLimitedError,
    "connector_timeout": ConnectorTimeoutError,
    "indeterminate": OutcomeUnknownError,
    "result_too_large": TooLargeError,
    "invalid_args": InvalidError,
    "tool_not_found": InvalidError,
    "not_found": NotFoundError,
}


class ConnectorView(BaseModel):
    """A connector that sources can be made of."""

    name: str
    title: str
    description: str
    version: str
    default_realm: str
    config_schema: dict[str, Any]
    labels: list[str]
    edge_types: list[str]


class Connectors(BaseModel):
    """All connectors of this install."""

    items: list[ConnectorView]
    next_cursor: None = None


class ToolView(BaseModel):
    """A tool in the caller's reach."""

    name: str
    connector: str
    tool: str
    source: str | None
    source_id: SourceId | None
    title: str
    description: str
    effect: Effect
    requires_approval: bool
    realm: str
    input_schema: dict[str, Any]
    score: float | None = None


class Tools(BaseModel):
    """Tools in reach, by name."""

    items: list[ToolView]
    next_cursor: None = None


class ToolMatches(BaseModel):
    """Tools that fit a query, best first."""

    tools: list[ToolView]


class DirectCall(BaseModel):
    """One call; ``source`` when several offer the tool."""

    connector: str = Field(max_length=100, examples=["git"])
    tool: str = Field(max_length=100, examples=["log"])
    args: dict[str, Any] = Field(default_factory=dict)
    source: str | None = None


class DirectCalls(BaseModel):
    """Several calls; answered in order."""

    calls: list[DirectCall] = Field(min_length=1, max_length=128)


class CallAnswer(BaseModel):
    """What came of a call; ``pending_approval`` names the approval to decide."""

    tool_call_id: ToolCallId
    status: ToolStatus | Literal["pending_approval"]
    result: Any = None
    error: ToolFault | None = None
    truncated: bool = False
    artifact_id: ArtifactId | None = None
    approval_id: ApprovalId | None = None
    usage_ms: float = 0.0
    policy: PolicyNote | None = None


class CallAnswers(BaseModel):
    """Answers in the order of the calls."""

    results: list[CallAnswer]


@router.get("/catalog/connectors")
async def list_connectors(_: Reader, request: Request) -> Connectors:
    """Connectors with the JSON Schema of their config."""
    found = services_of(request).registry.all()
    return Connectors(items=[_connector(connector.spec) for connector in found])


@router.get("/catalog/connectors/{connector}")
async def read_connector(connector: str, _: Reader, request: Request) -> ConnectorView:
    """One connector."""
    return _connector(_known(request, connector).spec)


@router.get("/catalog/connectors/{connector}/tools")
async def list_connector_tools(connector: str, caller: Reader, request: Request) -> Tools:
    """The tools that sources of this connector offer in the caller's reach."""
    name = _known(request, connector).spec.name
    entries = await services_of(request).gates.catalog.entries(caller.principal)
    return _tools(entry for entry in entries if entry.connector == name)


@router.get("/sources/{source_id}/tools")
async def list_source_tools(source_id: str, caller: Reader, request: Request) -> Tools:
    """The tools of one source; none while it is disabled."""
    services = services_of(request)
    source = await services.visible_source(caller.principal, decode("src", source_id))
    entries = await services.gates.catalog.entries(caller.principal)
    return _tools(entry for entry in entries if entry.source_id == source.id)


@router.get("/catalog/tools")
async def list_tools(caller: Reader, request: Request, realm: str | None = None) -> Tools:
    """Every tool in the caller's reach."""
    entries = await services_of(request).gates.catalog.entries(caller.principal, realm)
    return _tools(entries)


@router.get("/catalog/search")
async def search_tools(
    caller: Reader,
    request: Request,
    q: Annotated[str, Query(min_length=1, max_length=500)],
    top_k: Annotated[int, Query(ge=1, le=100)] = 8,
    realm: str | None = None,
) -> ToolMatches:
    """Tools by meaning and name."""
    found = await services_of(request).gates.catalog.search(
        caller.principal, q, realm=realm, top_k=top_k
    )
    return ToolMatches(tools=[_view(entry, score) for entry, score in found])


@router.post(
    "/chat/conversations/{conversation_id}/tool-calls",
    responses={202: {"model": CallAnswer, "description": "Waits for an approval."}},
    response_model=CallAnswer | CallAnswers,
)
async def call_tool(
    conversation_id: str,
    body: DirectCall | DirectCalls,
    caller: ToolCaller,
    request: Request,
    wait_secs: Annotated[float, Query(ge=0, le=60)] = 0,
) -> Response:
    """Call a tool through policy, approval and audit; or up to 128 tools, side by side.

    A batch answers 200 with one result for each call, in order; what went wrong with one of them
    is its result.
    """
    services = services_of(request)
    conversation = await services.conversations.get(
        caller.principal, decode("cnv", conversation_id)
    )
    occasion: dict[str, Any] = {
        "wait_secs": wait_secs,
        "realm": conversation.realm,
        "agent": await services.agents.get(caller.org_id, conversation.agent_id)
        if conversation.agent_id
        else None,
        "request_id": caller.request_id,
        "ip": request.client.host if request.client else None,
    }
    direct = services.gates.direct

    async def one(call: DirectCall) -> Reply:
        result = await direct.call(caller.principal, conversation.id, _call(call), **occasion)
        waiting = result.status is ToolStatus.WAITING_APPROVAL
        if result.error is not None and not waiting:
            error = _error(result)
            return Reply(error_body(error, caller.request_id), error.status)
        return Reply(_plain(result), 202 if waiting else 200, plain=True)

    async def many(calls: DirectCalls) -> Reply:
        wanted = [_call(call) for call in calls.calls]
        results = await direct.call_many(caller.principal, conversation.id, wanted, **occasion)
        return Reply({"results": [_plain(result) for result in results]}, 200, plain=True)

    if isinstance(body, DirectCalls):
        return await once(request, caller, lambda: many(body))
    return await once(request, caller, lambda: one(body))


@router.get("/chat/conversations/{conversation_id}/tool-calls/{tool_call_id}")
async def read_tool_call(
    conversation_id: str, tool_call_id: str, caller: ChatReader, request: Request
) -> CallAnswer:
    """What can be told of a call now."""
    services = services_of(request)
    conversation = await services.conversations.get(
        caller.principal, decode("cnv", conversation_id)
    )
    row, result = await services.gates.direct.get(caller.org_id, decode("tc", tool_call_id))
    if row.conversation_id != conversation.id:
        raise NotFoundError("this conversation has no such tool call")
    return _answer(result)


def _call(body: DirectCall) -> ToolCall:
    return ToolCall(connector=body.connector, tool=body.tool, args=body.args, source=body.source)


def _answer(result: ToolResult) -> CallAnswer:
    return CallAnswer.model_validate(_plain(result))


def _plain(result: ToolResult) -> dict[str, Any]:
    """A ``CallAnswer`` as JSON values."""
    fields = result.document()
    if result.status is ToolStatus.WAITING_APPROVAL:
        fields["status"] = "pending_approval"
    return fields


def _error(result: ToolResult) -> AgentcyError:
    assert result.error is not None
    kind = _ERRORS.get(result.error.code, ConnectorError)
    fields = result.document()
    return kind(
        result.error.message,
        code=result.error.code,
        tool_call_id=fields["tool_call_id"],
        status=fields["status"],
        policy=fields["policy"],
    )


def _known(request: Request, name: str) -> Connector:
    try:
        return services_of(request).registry.get(name)
    except SourceConfigError as error:
        raise NotFoundError(error.message) from None


def _connector(spec: ConnectorSpec) -> ConnectorView:
    return ConnectorView(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        version=spec.version,
        default_realm=spec.default_realm,
        config_schema=spec.config_model.model_json_schema(),
        labels=list(spec.labels),
        edge_types=list(spec.edge_types),
    )


def _tools(entries: Iterable[CatalogEntry]) -> Tools:
    return Tools(items=[_view(entry) for entry in sorted(entries, key=lambda e: e.name)])


def _view(entry: CatalogEntry, score: float | None = None) -> ToolView:
    return ToolView(
        name=entry.name,
        connector=entry.connector,
        tool=entry.spec.name,
        source=entry.source,
        source_id=entry.source_id,
        title=entry.spec.title,
        description=entry.spec.description,
        effect=entry.spec.effect,
        requires_approval=entry.spec.requires_approval,
        realm=entry.realm,
        input_schema=entry.spec.input_schema,
        score=score,
    )
