"""Asking, and following what comes of it: messages start runs, runs have event logs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from agentcy_ray.agent.profiles import DEFAULT_AGENT
from agentcy_ray.agent.run_records import NewRun, Run, choose_model
from agentcy_ray.api.idempotency import key_of
from agentcy_ray.api.pagination import MAX_SEQ, Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import Services, services_of
from agentcy_ray.api.sse import PING, EventStream, frame, resume_after
from agentcy_ray.api.stream_limit import hold_stream
from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.errors import ConflictError, GoneError
from agentcy_ray.core.events import RunEvent
from agentcy_ray.core.ids import MessageId, RunId, decode, encode
from agentcy_ray.core.tenancy import Principal

router = APIRouter(tags=["runs"])
Reader = Annotated[Allowed, permit("chat.read")]
Writer = Annotated[Allowed, permit("chat.write")]


class Question(BaseModel):
    """A message to an agent."""

    content: str = Field(min_length=1, max_length=65_536, examples=["Who changed the gateway?"])
    model: str | None = Field(default=None, description="provider:model for this message only.")
    on_disconnect: Literal["continue", "cancel"] = "continue"


class Accepted(BaseModel):
    """A run that was started; follow it by its events."""

    run_id: RunId
    message_id: MessageId


@router.post(
    "/chat/conversations/{conversation_id}/messages",
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "The run's events."},
        202: {"model": Accepted, "description": "With `Accept: application/json`."},
    },
)
async def ask(conversation_id: str, body: Question, caller: Writer, request: Request) -> Response:
    """Ask; streams the run's events, or answers 202 when JSON is asked for."""
    services = services_of(request)
    conversation = await services.conversations.get(
        caller.principal, decode("cnv", conversation_id), permission="chat.write"
    )
    if conversation.agent_id:
        agent = await services.agents.get(caller.org_id, conversation.agent_id)
    else:
        agent = await services.agents.by_name(caller.org_id, DEFAULT_AGENT)
    default = services.models.default_reference()
    model = choose_model(body.model or conversation.model, agent, None, default)
    services.models.resolve(model)  # an unknown model is the caller's mistake, not the run's
    streams = "application/json" not in request.headers.get("accept", "")
    if streams:
        await hold_stream(request, caller)
    started = await services.runs.start(
        caller.principal,
        NewRun(
            conversation_id=conversation.id,
            agent=agent,
            model=model,
            realm=conversation.realm,
            text=body.content,
            idempotency_key=key_of(request),
            on_disconnect=body.on_disconnect,
            request_id=caller.request_id,
        ),
    )
    run: Run = started.run
    if not streams:
        answer = Accepted(run_id=run.id, message_id=run.message_id)
        response: Response = JSONResponse(answer.model_dump(mode="json"), 202)
    else:
        response = _stream(request, caller, run, after=0)
    if started.replayed:
        response.headers["idempotent-replay"] = "true"
    return response


@router.get("/runs", response_model=Page[Run])
async def list_runs(
    caller: Reader,
    request: Request,
    conversation_id: str | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Runs, newest first."""
    signer = services_of(request).cursors
    position = signer.decode(cursor)
    rows = await services_of(request).runs.list(
        caller.principal,
        conversation_id=decode("cnv", conversation_id) if conversation_id else None,
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.get("/runs/{run_id}")
async def read_run(run_id: str, caller: Reader, request: Request) -> Run:
    """One run with its usage."""
    return await services_of(request).runs.get(caller.principal, decode("run", run_id))


@router.get("/runs/{run_id}/events", response_model=Page[RunEvent])
async def run_events(
    run_id: str,
    caller: Reader,
    request: Request,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_SEQ, description="Only events after this seq.")
    ] = None,
    limit: Limit = 200,
) -> Any:
    """The run's events: SSE that resumes by ``Last-Event-ID``, or a page when JSON is asked for."""
    services = services_of(request)
    run = await services.runs.get(caller.principal, decode("run", run_id))
    _log_is_kept(run, services.settings.run_event_retention_days)
    start = resume_after(request.headers, after)
    if "application/json" in request.headers.get("accept", ""):
        events = await services.run_log.read(caller.org_id, run.id, start, limit)
        return {"items": events, "next_cursor": None}
    await hold_stream(request, caller)
    return _stream(request, caller, run, after=start)


@router.post("/runs/{run_id}/cancel", status_code=202)
async def cancel_run(run_id: str, caller: Writer, request: Request) -> Accepted:
    """Ask a run to stop."""
    run = await services_of(request).runs.cancel(caller.principal, decode("run", run_id))
    return Accepted(run_id=run.id, message_id=run.message_id)


@router.post("/chat/conversations/{conversation_id}/cancel", status_code=202)
async def cancel_conversation(conversation_id: str, caller: Writer, request: Request) -> Accepted:
    """Ask the conversation's active run to stop."""
    services = services_of(request)
    conversation = await services.conversations.get(
        caller.principal, decode("cnv", conversation_id), permission="chat.write"
    )
    if conversation.active_run_id is None:
        raise ConflictError("nothing runs in this conversation", code="state_conflict")
    run = await services.runs.cancel(caller.principal, conversation.active_run_id)
    return Accepted(run_id=run.id, message_id=run.message_id)


def _log_is_kept(run: Run, days: int) -> None:
    """Refuse a log that is past its retention, before a stream's status line is out.

    Raises:
        GoneError: ``event_log_gone``.
    """
    if run.ended_at is not None and run.ended_at < SystemClock().now() - timedelta(days=days):
        raise GoneError(
            f"the log of run {encode('run', run.id)} is past its retention of {days} days; the "
            "conversation still holds its message",
            code="event_log_gone",
        )


def _stream(request: Request, caller: Allowed, run: Run, *, after: int) -> Response:
    frames = _frames(services_of(request), caller.org_id, run.id, after)
    if run.on_disconnect == "continue":
        return EventStream(frames)
    return EventStream(frames, partial(_leave, services_of(request), caller.principal, run.id))


async def _frames(
    services: Services, org_id: UUID, run_id: UUID, after: int
) -> AsyncGenerator[bytes]:
    """The run's log as frames. Holds ids only, since thousands of these wait at a time."""
    services.metrics.sse_streams.inc()
    events = services.run_log.follow(org_id, run_id, after)
    try:
        async for event in events:
            if event is None:
                yield PING
            else:
                yield frame(event.type.value, _data(event), event.seq)
            del event
    finally:
        services.metrics.sse_streams.dec()
        await events.aclose()


async def _leave(services: Services, principal: Principal, run_id: UUID) -> None:
    try:
        await services.runs.cancel(principal, run_id)
    except ConflictError:
        return  # it ended in the same moment


def _data(event: RunEvent) -> dict[str, Any]:
    """The event's data with the run's id, which a client needs to come back."""
    return {"run_id": encode("run", event.run_id), **event.data}
