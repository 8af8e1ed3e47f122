"""kyma's graph routes, over registered graphs and the built-in graph of the tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentcy_ray.devkyma.config import Role
from agentcy_ray.devkyma.engine import Engine
from agentcy_ray.devkyma.errors import EngineError, bad_body
from agentcy_ray.devkyma.graphs import StoredGraph
from agentcy_ray.devkyma.schema_graph import SchemaGraph
from agentcy_ray.devkyma.wire import Wire

AnyGraph = StoredGraph | SchemaGraph
Answer = Callable[[AnyGraph, Request], Awaitable[Any]]


def graph_routes(wire: Wire, engine: Engine) -> list[Route]:
    """List, overview, stats, schema, node, subgraph, search and neighbours."""

    def chosen(request: Request) -> AnyGraph:
        name = request.path_params["graph"]
        if name == "schema":
            return SchemaGraph(engine)
        database = _database(request)
        if (graph := engine.catalog.graphs(database).get(name)) is None:
            raise EngineError(404, "not_found", "unknown graph")
        return StoredGraph(engine, database, graph)

    def route(path: str, answer: Answer, method: str = "GET") -> Route:
        async def handler(request: Request) -> Response:
            return JSONResponse(await answer(chosen(request), request))

        return wire.route(f"/v1/graph/{{graph}}{path}", handler, Role.READ, method, errors="bare")

    async def graphs(request: Request) -> Response:
        listed = [{"name": "schema", "kind": "schema", "description": "tables of every database"}]
        for graph in engine.catalog.graphs(_database(request)).values():
            about = f"{graph.node_table} and {graph.edge_table}"
            listed.append({"name": graph.name, "kind": "stored", "description": about})
        return JSONResponse(listed)

    async def search(graph: AnyGraph, request: Request) -> Any:
        given = await wire.json(request)
        text, labels = given.get("text", ""), given.get("labels") or []
        return await graph.search(
            str(text), labels, _number(given, "limit", 20), _number(given, "offset", 0)
        )

    async def neighbors(graph: AnyGraph, request: Request) -> Any:
        given = await wire.json(request)
        ids: list[str] = given.get("node_ids") or []
        direction = str(given.get("direction", "both"))
        return await graph.neighbors(ids, direction, _number(given, "limit", 200))

    return [
        wire.route("/v1/graph", graphs, Role.READ, errors="bare"),
        route("/overview", lambda g, r: g.overview(_number(r.query_params, "limit", 800))),
        route("/stats", lambda g, _: g.stats()),
        route("/schema", lambda g, _: g.schema()),
        route(
            "/nodes/{node:path}/subgraph",
            lambda g, r: g.subgraph(r.path_params["node"], _number(r.query_params, "depth", 2)),
        ),
        route("/nodes/{node:path}", lambda g, r: g.node(r.path_params["node"])),
        route("/search", search, "POST"),
        route("/neighbors", neighbors, "POST"),
    ]


def _database(request: Request) -> str:
    return request.headers.get("x-database", "default")


def _number(given: Any, name: str, default: int) -> int:
    try:
        return max(0, int(given.get(name, default)))
    except (TypeError, ValueError):
        raise bad_body(f"{name} is a number") from None
