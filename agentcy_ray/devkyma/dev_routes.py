"""Routes of our own, under ``/dev``: what kyma does by its command line, and the test switches.

Nothing in production may need them: a real kyma does not have them.
"""

from __future__ import annotations

import asyncio
from dataclasses import MISSING, fields
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentcy_ray.devkyma.catalog import Graph
from agentcy_ray.devkyma.config import Role
from agentcy_ray.devkyma.engine import Engine
from agentcy_ray.devkyma.errors import EngineError, bad_body
from agentcy_ray.devkyma.faults import Faults
from agentcy_ray.devkyma.types import Column, arrow_type
from agentcy_ray.devkyma.wire import Wire


def dev_routes(wire: Wire, engine: Engine, faults: Faults | None) -> list[Route]:
    """Typed tables, graph registration and, where there are switches, faults."""

    async def create_table(request: Request) -> Response:
        given = await wire.json(request)
        database, name, specs = (given.get(k) for k in ("database", "table", "columns"))
        if not (isinstance(database, str) and isinstance(name, str) and isinstance(specs, dict)):
            raise bad_body('a table is {"database", "table", "columns": {name: type}}')
        columns = tuple(Column(str(n), _known_type(t)) for n, t in specs.items())
        table = await asyncio.to_thread(engine.catalog.ensure, database, name, columns)
        if table.columns != columns:
            raise EngineError(409, "table_exists", f"table {name} exists with other columns")
        return JSONResponse({"database": database, "table": name}, 201)

    async def register_graph(request: Request) -> Response:
        given = await wire.json(request)
        database = given.pop("database", None)
        allowed = {f.name for f in fields(Graph)}
        needed = {f.name for f in fields(Graph) if f.default is MISSING}
        if not isinstance(database, str) or not needed <= set(given) <= allowed:
            raise bad_body(f"a graph needs database, {', '.join(sorted(needed))}")
        if not all(isinstance(v, str) for v in given.values()) or given["name"] == "schema":
            raise bad_body("a graph's parts are names, and the name schema is taken")
        await asyncio.to_thread(engine.catalog.register_graph, database, Graph(**given))
        return JSONResponse({"database": database, "graph": given["name"]}, 201)

    routes = [
        wire.route("/dev/tables", create_table, Role.ADMIN, "POST"),
        wire.route("/dev/graphs", register_graph, Role.ADMIN, "POST"),
    ]
    return routes if faults is None else [*routes, *_fault_routes(wire, faults)]


def _fault_routes(wire: Wire, faults: Faults) -> list[Route]:
    async def shown(_request: Request) -> Response:
        return JSONResponse(faults.shown())

    async def switched(request: Request) -> Response:
        faults.set(await wire.json(request))
        return JSONResponse(faults.shown())

    return [
        wire.route("/dev/faults", shown, Role.ADMIN),
        wire.route("/dev/faults", switched, Role.ADMIN, "POST"),
    ]


def _known_type(name: Any) -> str:
    try:
        arrow_type(str(name))
    except ValueError as error:
        raise bad_body(str(error)) from None
    return str(name)
