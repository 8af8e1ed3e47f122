"""The event stream itself, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import httpx2 as httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from agentcy_ray.api.sse import PING, EventStream, frame
from agentcy_ray.core.errors import StoreUnavailableError
from tests.api.platform import read_events, serve

Frames = Callable[[], AsyncGenerator[bytes]]


def app_of(frames: Frames, **how: float) -> Starlette:
    def stream(_: Request) -> EventStream:
        return EventStream(frames(), **how)

    return Starlette(routes=[Route("/", stream)])


async def test_an_error_after_the_start_is_the_last_event() -> None:
    async def frames() -> AsyncGenerator[bytes]:
        yield frame("content_delta", {"delta": "a\nb\r\u2028\u2029\x85"}, 1)
        yield PING
        raise StoreUnavailableError("Postgres is away")

    async with (
        serve(app_of(frames)) as url,
        httpx.AsyncClient(timeout=60) as client,
        client.stream("GET", url) as answer,
    ):
        seen = [event async for event in read_events(answer)]
    assert [(event.id, event.type) for event in seen] == [
        (1, "content_delta"), (None, "ping"), (None, "error"),
    ]  # fmt: skip
    assert seen[0].data == {"delta": "a\nb\r\u2028\u2029\x85"}
    assert seen[2].data["code"] == "unavailable"
    assert seen[2].data["retryable"]


async def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    closed = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield frame("content_delta", {"delta": "x" * 100_000})
        finally:
            closed.set()

    async with serve(app_of(frames, slow_secs=0.3)) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(closed.wait(), 60)
        writer.transport.abort()
        del reader


async def test_a_client_that_leaves_closes_the_frames() -> None:
    closed = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes]:
        try:
            yield PING
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with serve(app_of(frames)) as url, httpx.AsyncClient(timeout=60) as client:
        async with client.stream("GET", url) as answer:
            async for event in read_events(answer):
                assert event.type == "ping"
                break
        await asyncio.wait_for(closed.wait(), 60)
