"""A kyma of HTTP only, which answers as it is told and remembers what it was asked."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.body.splitlines()]


@dataclass
class StubKyma:
    """``next`` holds answers by path that are given first, None being the usual one."""

    url: str
    token: str = "devtok"
    seen: list[Seen] = field(default_factory=list)
    next: dict[str, deque[Response | None]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    databases: list[dict[str, Any]] = field(default_factory=list)
    refuse: Callable[[dict[str, Any]], bool] | None = None
    under_way: int = 0
    most_under_way: int = 0
    hold: asyncio.Event | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def then(self, path: str, *answers: Response | None) -> None:
        self.next.setdefault(path, deque()).extend(answers)

    def ingests(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == "/v1/ingest"]

    def rows(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for body in self.stored.values() for line in body.splitlines()]

    async def answer(self, request: Request) -> Response:
        path, body = request.url.path, await request.body()
        self.seen.append(Seen(path, dict(request.headers), body))
        if request.headers.get("authorization") != f"Bearer {self.token}" and path != "/health":
            headers = {"www-authenticate": 'Bearer realm="kyma"'}
            return PlainTextResponse("unknown token", 401, headers)
        if self.next.get(path) and (told := self.next[path].popleft()) is not None:
            return told
        if path == "/v1/ingest":
            return await self._ingest(request, body)
        if path == "/v1/catalog/schema":
            return JSONResponse({"databases": self.databases})
        if path == "/health":
            return JSONResponse({"status": "ok", "version": "0.0.22"})
        if path == "/v1/query":
            return ndjson()
        return failure(404, "not_found", "no such route")

    async def _ingest(self, request: Request, body: bytes) -> Response:
        key = request.headers["x-idempotency-key"]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.arrived.set()
        try:
            if self.hold is not None:
                await self.hold.wait()
            else:
                await asyncio.sleep(0)
            rows = [orjson.loads(line) for line in body.splitlines()]
            if self.refuse is not None and any(map(self.refuse, rows)):
                return failure(400, "bad_request_body", "a line does not fit a column")
            replayed = key in self.stored
            self.stored.setdefault(key, body)
        finally:
            self.under_way -= 1
        return JSONResponse({
            "snapshot_id": "s", "extent_count": 0 if replayed else 1, "rows_ingested": len(rows),
            "bytes_written": len(body), "replayed": replayed,
        })  # fmt: skip


def failure(status: int, code: str, message: str = "", **headers: str) -> Response:
    error = {"code": code, "message": message, "request_id": "r"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": error}, status, named)


def ndjson(*rows: dict[str, Any], rows_header: str = "x-kyma-rows") -> Response:
    body = b"".join(orjson.dumps(row, option=orjson.OPT_SORT_KEYS) + b"\n" for row in rows)
    headers = {rows_header: str(len(rows))}
    return Response(body, 200, headers, "application/x-ndjson; charset=utf-8")


@dataclass
class Served:
    url: str
    stub: StubKyma

    async def answer(self, request: Request) -> Response:
        return await self.stub.answer(request)


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    """A listener on a port of its own."""
    # With the protocol named: else asyncio leaves Nagle's delay on, 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    served = Served(url, StubKyma(url))
    app = Starlette(routes=[Route("/{path:path}", served.answer, methods=["GET", "POST"])])
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield served
    finally:
        server.should_exit = True
        await task
