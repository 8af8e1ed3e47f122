"""From what is asked to the response: a plain completion or a governed run, streamed or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import orjson
from fastapi import Request
from starlette.responses import Response

from agentcy_ray.agent.profiles import AgentProfile
from agentcy_ray.agent.run_records import NewRun
from agentcy_ray.api.idempotency import key_of, replied
from agentcy_ray.api.permit import Allowed
from agentcy_ray.api.routes.v1.agent_runs import run_pieces
from agentcy_ray.api.routes.v1.asked import Asked, chosen, new_run
from agentcy_ray.api.routes.v1.budgeted import budgeted_pieces
from agentcy_ray.api.routes.v1.pieces import Spoken, gathered
from agentcy_ray.api.routes.v1.plain import begun
from agentcy_ray.api.routes.v1.writer import Head, Writer
from agentcy_ray.api.services import Services, services_of
from agentcy_ray.api.sse import EventStream, left
from agentcy_ray.api.stream_limit import hold_stream
from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.errors import ConflictError
from agentcy_ray.core.ids import decode, encode, new_id
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.llm.model import Model, ModelRequest, estimate_tokens

T = TypeVar("T")
LEFT = 499
"""Status of an answer that nobody waits for any more; only logs and metrics see it."""


async def answer(request: Request, caller: Allowed, asked: Asked, writer: Writer) -> Response:
    """The response to a request of either form.

    Raises:
        NotFoundError: ``model_not_found``.
        InvalidError: the model or the agent cannot do what is asked.
        AgentcyError: it failed before anything was said.
    """
    services = services_of(request)
    found = await chosen(services, caller, asked.model)
    if asked.stream:
        await hold_stream(request, caller)
    if isinstance(found, AgentProfile):
        return await _by_agent(request, caller, asked, writer, found)
    return await _by_model(request, caller, asked, writer, found)


# -- a governed run -----------------------------------------------------------------------------


async def _by_agent(
    request: Request, caller: Allowed, asked: Asked, writer: Writer, agent: AgentProfile
) -> Response:
    services = services_of(request)
    new = await new_run(services, caller, agent, asked)
    reply, replayed = await replied(request, caller, partial(_start, services, caller, new))
    run_id, created = decode("run", reply.body["run_id"]), reply.body["created"]
    head = _head(asked, caller, run_id, created, run_id=run_id)
    pieces = run_pieces(services.run_log, caller.org_id, run_id)
    cancels = asked.extension.on_disconnect == "cancel"
    leave = partial(_cancel, services, caller.principal, run_id) if cancels else None
    if asked.stream:
        return _stream(services, writer.frames(head, pieces), replayed, leave)
    return await _whole(request, gathered(pieces), partial(writer.body, head), replayed, leave)


async def _start(services: Services, caller: Allowed, new: NewRun) -> dict[str, Any]:
    run = (await services.runs.start(caller.principal, new)).run
    return {"run_id": encode("run", run.id), "created": int(run.created_at.timestamp())}


async def _cancel(services: Services, principal: Principal, run_id: UUID) -> None:
    try:
        await services.runs.cancel(principal, run_id)
    except ConflictError:
        return  # it ended in the same moment


# -- a plain completion -------------------------------------------------------------------------


async def _by_model(
    request: Request, caller: Allowed, asked: Asked, writer: Writer, model: Model
) -> Response:
    services = services_of(request)
    if asked.stream and key_of(request) is None:
        head = _head(asked, caller, new_id(), _now())
        pieces = budgeted_pieces(services.spending, caller.principal, model, asked.request)
        pieces = await begun(pieces, services.settings.sse_ping_secs)
        return _stream(services, writer.frames(head, pieces), replayed=False)

    async def complete() -> dict[str, Any]:
        pieces = budgeted_pieces(services.spending, caller.principal, model, asked.request)
        spoken = await gathered(pieces)
        id_ = encode("cmp", new_id())
        return {"id": id_, "created": _now(), "spoken": spoken.model_dump(mode="json")}

    # Under a key the answer is kept, and a stream is made of what was kept.
    work = replied(request, caller, complete)
    done = await _unless_left(request, work)
    if done is None:
        return Response(status_code=LEFT)
    reply, replayed = done
    head = _head(asked, caller, decode("cmp", reply.body["id"]), reply.body["created"])
    spoken = Spoken.model_validate(reply.body["spoken"])
    if asked.stream:
        return _stream(services, writer.frames(head, spoken.pieces()), replayed)
    return _json(writer.body(head, spoken), replayed)


# -- both ---------------------------------------------------------------------------------------


def _head(
    asked: Asked, caller: Allowed, id_: UUID, created: int, *, run_id: UUID | None = None
) -> Head:
    return Head(
        id=id_,
        created=created,
        model=asked.model,
        request_id=caller.request_id,
        asked_tokens=_tokens(asked.request) if asked.stream else 0,
        run_id=run_id,
        include_usage=asked.include_usage,
    )


def _tokens(request: ModelRequest) -> int:
    return estimate_tokens(request.model_dump_json(include={"system", "messages", "tools"}))


def _stream(
    services: Services,
    frames: AsyncGenerator[bytes],
    replayed: bool,
    leave: Callable[[], Awaitable[None]] | None = None,
) -> Response:
    stream = EventStream(_counted(services, frames), leave, lead=b"")
    if replayed:
        stream.headers["idempotent-replay"] = "true"
    return stream


async def _counted(services: Services, frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    services.metrics.sse_streams.inc()
    try:
        async with aclosing(frames):
            async for frame in frames:
                yield frame
    finally:
        services.metrics.sse_streams.dec()


async def _whole(
    request: Request,
    work: Awaitable[Spoken],
    body: Callable[[Spoken], dict[str, Any]],
    replayed: bool,
    leave: Callable[[], Awaitable[None]] | None,
) -> Response:
    spoken = await _unless_left(request, work)
    if spoken is not None:
        return _json(body(spoken), replayed)
    if leave is not None:
        await leave()
    return Response(status_code=LEFT)


async def _unless_left(request: Request, work: Awaitable[T]) -> T | None:
    """The result of ``work``; None, and the work is cancelled, when the client leaves before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _json(body: dict[str, Any], replayed: bool) -> Response:
    headers = {"idempotent-replay": "true"} if replayed else None
    content = orjson.dumps(body, default=str)
    return Response(content, 200, headers, "application/json")


def _now() -> int:
    return int(SystemClock().now().timestamp())
