"""The two routes of table maintenance."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentcy_ray.devkyma.catalog import Table
from agentcy_ray.devkyma.config import Role
from agentcy_ray.devkyma.engine import Engine
from agentcy_ray.devkyma.errors import EngineError, bad_body
from agentcy_ray.devkyma.upkeep import Merged, Upkeep
from agentcy_ray.devkyma.wire import Wire

DEFAULT_MERGE, MOST_MERGE = 32, 256
SMALL_BYTES = 64 * 1024 * 1024


def upkeep_routes(wire: Wire, engine: Engine, upkeep: Upkeep) -> list[Route]:
    """Forgetting extents that are marked as deleted, and merging small ones.

    kyma's clean-up takes what merges have marked, by when they did, and never a live extent,
    however old its rows. A merge here marks nothing: it lets go of what it replaced at once.
    """

    async def cleanup(request: Request) -> Response:
        database, name = request.path_params["database"], request.path_params["table"]
        table = (engine.catalog.tables(database) or {}).get(name)
        if table is None:
            raise EngineError(404, "table_not_found", f"table not found: {name}")
        _check_time(request.query_params.get("before", ""))
        return JSONResponse({"extents_deleted": 0, "rows_freed": 0, "bytes_freed": 0})

    async def compact(request: Request) -> Response:
        given = await wire.json(request)
        tables = _chosen(engine, given)
        most = int(given.get("max_merge", DEFAULT_MERGE))
        if not 2 <= most <= MOST_MERGE:
            raise bad_body(f"max_merge is 2 to {MOST_MERGE}")
        small = int(given.get("small_bytes", SMALL_BYTES))
        before = sum(len(table.extents) for table in tables)
        total = Merged()
        for table in tables:
            done = await asyncio.to_thread(upkeep.compact, table, most=most, small_bytes=small)
            total.tasks += done.tasks
            total.extents += done.extents
        after = sum(len(table.extents) for table in _chosen(engine, given))
        return JSONResponse({
            "tasks_submitted": total.tasks,
            "extents_queued": total.extents,
            "tables": len(tables),
            "live_extents_before": before,
            "live_extents_after": after,
            "waited": True,
            "note": "",
        })

    return [
        wire.route(
            "/v1/database/{database}/table/{table}/cleanup",
            cleanup,
            Role.WRITE,
            "POST",
            errors="text",
        ),
        wire.route("/v1/admin/compact", compact, Role.WRITE, "POST", errors="text"),
    ]


def _chosen(engine: Engine, given: dict[str, Any]) -> list[Table]:
    return [
        table
        for database, tables in engine.catalog.databases().items()
        for table in tables.values()
        if given.get("database", database) == database
        and given.get("table", table.name) == table.name
    ]


def _check_time(text: str) -> None:
    try:
        time = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + of the offset
    except ValueError:
        raise bad_body("before is an RFC 3339 time") from None
    if time.tzinfo is None:
        raise bad_body("before is an RFC 3339 time with a zone")
