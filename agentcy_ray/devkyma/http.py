"""The HTTP side: one Starlette application with kyma's routes and error shapes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agentcy_ray.devkyma.answers import encode_rows
from agentcy_ray.devkyma.auth import AuthError, require
from agentcy_ray.devkyma.config import Role
from agentcy_ray.devkyma.engine import Engine, IngestRequest
from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.faults import Faults
from agentcy_ray.devkyma.queries import Budgets, QueryRequest, run_query

VERSIONS = {"kyma": "0.0.22", "pensieve": "0.1.0"}
FALSE = frozenset({"false", "0", "no", "off"})
CAPABILITIES = (
    "data_sources",
    "credentials",
    "oauth",
    "saved_views",
    "users_admin",
    "explore_live",
    "agent",
)
INGEST_THREADS = 2
"""Bodies that are parsed at a time: what one lets go of the interpreter, another uses."""

Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The routes over one engine."""

    def __init__(self, engine: Engine, faults: Faults) -> None:
        self._engine = engine
        self._faults = faults
        self._config = engine.config
        self._prefix = f"X-{engine.config.header_prefix.capitalize()}-"
        self._writers = ThreadPoolExecutor(INGEST_THREADS, thread_name_prefix="ingest")

    def application(self) -> Starlette:
        """The application; ``close`` it when its server has stopped."""
        route, read, write = self.route, Role.READ, Role.WRITE
        routes = [
            Route("/health", self._health, methods=["GET"]),
            route("/v1/capabilities", self._capabilities, read),
            route("/v1/catalog/schema", self._schema, read),
            route("/v1/query", self._query, read, "POST"),
            route("/v1/ingest", self._ingest, write, "POST"),
            *self._further_routes(),
        ]
        application = Starlette(routes=routes)
        application.add_exception_handler(404, self._unknown)
        return application

    def close(self) -> None:
        """Let the threads go."""
        self._writers.shutdown()

    def route(
        self, path: str, handler: Handler, least: Role, method: str = "GET", *, plain: bool = False
    ) -> Route:
        """A route that asks for a role; ``plain`` errors carry no request id."""

        async def guarded(request: Request) -> Response:
            request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
            try:
                require(self._config.tokens, request.headers.get("authorization"), least)
                response = await handler(request)
            except AuthError as error:
                return self._refused(error)
            except EngineError as error:
                response = self._failed(error, None if plain else request_id)
            response.headers["X-Request-ID"] = request_id
            return response

        return Route(path, guarded, methods=[method])

    async def _health(self, _request: Request) -> Response:
        version = VERSIONS[self._config.header_prefix]
        return JSONResponse({"status": "ok", "version": version})

    async def _capabilities(self, _request: Request) -> Response:
        return JSONResponse({"mode": "local", **dict.fromkeys(CAPABILITIES, False)})

    async def _schema(self, _request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._engine.schema))

    async def _query(self, request: Request) -> Response:
        self._faults.before("query")
        body = await self.body(request, self._config.limits.query_bytes)
        try:
            text = body.decode().strip()
        except UnicodeDecodeError:
            raise EngineError(400, "bad_encoding", "the query is not UTF-8") from None
        if not text:
            raise EngineError(400, "empty_query", "the query is empty")
        asked = QueryRequest(
            request.headers.get("x-database", "default"),
            _language(request.headers.get("content-type", "")),
            text,
            self._budgets(request),
            request.headers.get("x-graph"),
        )
        batches = await run_query(self._engine, asked)
        rows, count = await asyncio.to_thread(encode_rows, batches)
        return Response(
            rows,
            media_type="application/x-ndjson; charset=utf-8",
            headers={f"{self._prefix}Rows": str(count)},
        )

    async def _ingest(self, request: Request) -> Response:
        self._faults.before("ingest")
        headers = request.headers
        if (table := headers.get("x-table")) is None:
            raise EngineError(400, "missing_table_header", "the header X-Table is required")
        asked = IngestRequest(
            headers.get("x-database", "default"),
            table,
            await self.body(request, self._config.limits.ingest_bytes),
            headers.get("x-idempotency-key"),
            _switch(headers.get("x-auto-create")),
            _switch(headers.get("x-schema-evolve")),
        )
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._writers, partial(self._engine.ingest, asked))
        if self._faults.take("ingest_lost_acks"):
            raise EngineError(500, "ingest_failed", "failed on demand, after the commit")
        return JSONResponse(done)

    async def body(self, request: Request, limit: int) -> bytes:
        """The body of a request.

        Raises:
            EngineError: 413 when it is longer than ``limit`` bytes.
        """
        too_large = EngineError(413, "body_too_large", f"the body is over {limit} bytes")
        if int(request.headers.get("content-length", "0")) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
        return b"".join(parts)

    def _budgets(self, request: Request) -> Budgets:
        limits = self._config.limits

        def asked(name: str, least: int, default: int) -> int:
            text = request.headers.get(f"{self._prefix}Max-{name}", "").strip()
            return max(least, int(text)) if text.isdecimal() else default

        return Budgets(
            asked("Wall-Clock-Ms", 10, limits.wall_clock_ms),
            asked("Memory-Bytes", 1024 * 1024, limits.memory_bytes),
        )

    def _refused(self, error: AuthError) -> Response:
        realm = self._config.header_prefix
        headers = {"WWW-Authenticate": f'Bearer realm="{realm}"'} if error.status == 401 else None
        return PlainTextResponse(error.text, error.status, headers)

    def _failed(self, error: EngineError, request_id: str | None) -> Response:
        shown = {"code": error.code, "message": error.message}
        if request_id is not None:
            shown["request_id"] = request_id
        headers = {
            f"{self._prefix}{name}" if name == "Budget-Limit" else name: value
            for name, value in error.headers.items()
        }
        return JSONResponse({"error": shown}, error.status, headers)

    async def _unknown(self, request: Request, _error: Exception) -> Response:
        shown = {"error": "endpoint not available on this server", "path": request.url.path}
        return JSONResponse(shown, 404)

    def _further_routes(self) -> list[Route]:
        if not self._config.test_switches:
            return []
        return [
            self.route("/dev/faults", self._faults_shown, Role.ADMIN),
            self.route("/dev/faults", self._faults_set, Role.ADMIN, "POST"),
        ]

    async def _faults_shown(self, _request: Request) -> Response:
        return JSONResponse(self._faults.shown())

    async def _faults_set(self, request: Request) -> Response:
        self._faults.set(await request.json())
        return JSONResponse(self._faults.shown())


def _language(content_type: str) -> str:
    if content_type.startswith("application/x-kql"):
        return "kql"
    return "cypher" if content_type.startswith("application/x-cypher") else "sql"


def _switch(text: str | None) -> bool:
    """A boolean header; both are on unless they are said to be off."""
    return text is None or text.strip().lower() not in FALSE
