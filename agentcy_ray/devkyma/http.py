"""The HTTP side: one Starlette application with kyma's routes and error shapes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentcy_ray.devkyma.answers import encode_rows
from agentcy_ray.devkyma.config import Role
from agentcy_ray.devkyma.dev_routes import dev_routes
from agentcy_ray.devkyma.engine import Engine, IngestRequest
from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.faults import Faults
from agentcy_ray.devkyma.graph_routes import graph_routes
from agentcy_ray.devkyma.queries import Budgets, QueryRequest, run_query
from agentcy_ray.devkyma.upkeep import Upkeep
from agentcy_ray.devkyma.upkeep_routes import upkeep_routes
from agentcy_ray.devkyma.wire import Wire, switch

VERSIONS = {"kyma": "0.0.22", "pensieve": "0.1.0"}
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


class Api:
    """The routes over one engine."""

    def __init__(self, engine: Engine, faults: Faults, upkeep: Upkeep) -> None:
        self._engine = engine
        self._faults = faults
        self._upkeep = upkeep
        self._limits = engine.config.limits
        self._wire = Wire(engine.config)
        self._writers = ThreadPoolExecutor(INGEST_THREADS, thread_name_prefix="ingest")

    def application(self) -> Starlette:
        """The application; ``close`` it when its server has stopped."""
        wire, engine = self._wire, self._engine
        routes = [
            Route("/health", self._health, methods=["GET"]),
            wire.route("/v1/capabilities", self._capabilities, Role.READ),
            wire.route("/v1/catalog/schema", self._schema, Role.READ),
            wire.route("/v1/query", self._query, Role.READ, "POST"),
            wire.route("/v1/ingest", self._ingest, Role.WRITE, "POST"),
            *graph_routes(wire, engine),
            *upkeep_routes(wire, engine, self._upkeep),
            *dev_routes(wire, engine, self._faults if engine.config.test_switches else None),
        ]
        application = Starlette(routes=routes)
        application.add_exception_handler(404, wire.unknown)
        return application

    def close(self) -> None:
        """Let the threads go."""
        self._writers.shutdown()

    async def _health(self, _request: Request) -> Response:
        version = VERSIONS[self._engine.config.header_prefix]
        return JSONResponse({"status": "ok", "version": version})

    async def _capabilities(self, _request: Request) -> Response:
        return JSONResponse({"mode": "local", **dict.fromkeys(CAPABILITIES, False)})

    async def _schema(self, _request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._engine.schema))

    async def _query(self, request: Request) -> Response:
        self._faults.before("query")
        body = await self._wire.body(request, self._limits.query_bytes)
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
            headers={self._wire.header("Rows"): str(count)},
        )

    async def _ingest(self, request: Request) -> Response:
        self._faults.before("ingest")
        headers = request.headers
        if (table := headers.get("x-table")) is None:
            raise EngineError(400, "missing_table_header", "the header X-Table is required")
        asked = IngestRequest(
            headers.get("x-database", "default"),
            table,
            await self._wire.body(request, self._limits.ingest_bytes),
            headers.get("x-idempotency-key"),
            switch(headers.get("x-auto-create")),
            switch(headers.get("x-schema-evolve")),
        )
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._writers, partial(self._engine.ingest, asked))
        if self._faults.take("ingest_lost_acks"):
            raise EngineError(500, "ingest_failed", "failed on demand, after the commit")
        return JSONResponse(done)

    def _budgets(self, request: Request) -> Budgets:
        def asked(name: str, least: int, default: int) -> int:
            text = request.headers.get(self._wire.header(f"Max-{name}"), "").strip()
            return max(least, int(text)) if text.isdecimal() else default

        return Budgets(
            asked("Wall-Clock-Ms", 10, self._limits.wall_clock_ms),
            asked("Memory-Bytes", 1024 * 1024, self._limits.memory_bytes),
        )


def _language(content_type: str) -> str:
    if content_type.startswith("application/x-kql"):
        return "kql"
    return "cypher" if content_type.startswith("application/x-cypher") else "sql"
