"""How answers leave a replica: counted in packets, by the kernel that received them."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import uvicorn
import uvicorn.config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentcy_ray.serve import http_protocol
from agentcy_ray.serve.http_protocol import OneWriteProtocol
from tests.api.platform import serve

_DATA_SEGMENTS_IN = 152
"""Offset of ``tcpi_data_segs_in`` in Linux' ``struct tcp_info``."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts packets as Linux does")


@dataclass
class Line:
    """A connection without an HTTP client in between."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, path: str, *headers: str) -> None:
        lines = (f"GET {path} HTTP/1.1", "host: x", *headers, "", "")
        self.writer.write("\r\n".join(lines).encode())

    async def head(self) -> str:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)).decode()

    async def body(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), 60)

    async def chunks(self) -> bytes:
        """A chunked body."""
        whole = b""
        while size := int(await asyncio.wait_for(self.reader.readline(), 60), 16):
            whole += await self.body(size)
            await self.body(2)
        await self.body(2)
        return whole

    @property
    def packets(self) -> int:
        """Packets with data that have arrived."""
        info = self.writer.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, 256
        )
        return struct.unpack_from("I", info, _DATA_SEGMENTS_IN)[0]


class Answers:
    """The routes that are asked; a stream goes on when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/short", self.short), Route("/long", self.long),
                Route("/stream", self.stream), Route("/cut", self.cut),
            ]
        )  # fmt: skip

    async def short(self, request: Request) -> Response:
        return Response(b"x" * 100)

    async def long(self, request: Request) -> Response:
        return Response(bytes(range(256)) * 16_384)  # 4 MiB: far beyond what a socket holds

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncGenerator[bytes]:
            yield b"first"
            await self.go.wait()
            for number in range(200):
                yield f" {number}".encode()

        return StreamingResponse(parts())

    async def cut(self, request: Request) -> Response:
        return Response(b"y" * 50, headers={"connection": "close"})


@asynccontextmanager
async def line_to(
    answers: Answers, protocol: type[HttpToolsProtocol] = OneWriteProtocol
) -> AsyncIterator[Line]:
    async with serve(answers.app, http=protocol) as url:
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()


@linux
@pytest.mark.parametrize(("protocol", "packets"), [(OneWriteProtocol, 1), (HttpToolsProtocol, 2)])
async def test_head_and_body_of_an_answer_leave_in_one_packet(
    protocol: type[HttpToolsProtocol], packets: int
) -> None:
    async with line_to(Answers(), protocol) as line:
        for answered in range(1, 4):
            await line.ask("/short")
            assert "content-length: 100" in await line.head()
            assert await line.body(100) == b"x" * 100
            assert line.packets == answered * packets


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with line_to(Answers()) as line:
        await line.ask("/short")
        await line.ask("/long")
        await line.ask("/short")
        for size in (100, 4 * 1024 * 1024, 100):
            assert f"content-length: {size}" in await line.head()
            body = await line.body(size)
            assert body == (b"x" * 100 if size == 100 else bytes(range(256)) * 16_384)


async def test_a_stream_shows_each_part_when_it_is_there_and_keeps_the_order() -> None:
    answers = Answers()
    async with line_to(answers) as line:
        await line.ask("/stream")
        assert "transfer-encoding: chunked" in await line.head()
        assert await line.body(len(b"5\r\nfirst\r\n")) == b"5\r\nfirst\r\n"
        answers.go.set()
        assert await line.chunks() == b"".join(f" {n}".encode() for n in range(200))


async def test_an_answer_after_which_the_connection_closes_arrives_whole() -> None:
    async with line_to(Answers()) as line:
        await line.ask("/cut")
        assert "connection: close" in await line.head()
        assert await asyncio.wait_for(line.reader.read(), 60) == b"y" * 50


async def test_a_reader_that_takes_nothing_stops_the_writer() -> None:
    """Backpressure of the socket reaches the application, so memory stays bounded."""
    sent = 0
    blocked = asyncio.Event()

    async def endless(scope, receive, send) -> None:
        nonlocal sent
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < 1024:
            part = asyncio.ensure_future(
                send({"type": "http.response.body", "body": b"z" * 65_536, "more_body": True})
            )
            done, _ = await asyncio.wait({part}, timeout=1)
            if not done:
                blocked.set()
            await part
            sent += 1

    async with serve(endless, http=OneWriteProtocol, lifespan="off") as url:
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(blocked.wait(), 60)
        assert sent < 1024
        writer.transport.abort()
        del reader


def test_servers_that_name_no_protocol_speak_it_once_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "unset")
    http_protocol.install()
    config = uvicorn.Config(Starlette())
    config.load()
    assert config.http_protocol_class is OneWriteProtocol
