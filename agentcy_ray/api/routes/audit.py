"""The audit log: list, follow, export, verify."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from agentcy_ray.api.pagination import MAX_SEQ, Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.api.sse import PING, EventStream, frame, resume_after
from agentcy_ray.api.stream_limit import hold_stream
from agentcy_ray.audit.entry import AuditRecord, Category
from agentcy_ray.audit.export import MEDIA_TYPES, Form, export
from agentcy_ray.audit.filters import AuditFilter
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.audit.verify import Verification
from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.ids import decode
from agentcy_ray.core.meters import Gauge

router = APIRouter(prefix="/policies", tags=["audit"])
Reader = Annotated[Allowed, permit("audit.read")]


def filters(
    decision: Literal["allow", "deny"] | None = None,
    action: str | None = None,
    category: Category | None = None,
    connector: str | None = None,
    user_id: Annotated[str | None, Query(description="usr_…")] = None,
    api_key_id: Annotated[str | None, Query(description="key_…")] = None,
    since: datetime | None = None,
    until: datetime | None = None,
    tool: Annotated[str | None, Query(alias="resource.tool")] = None,
    run_id: Annotated[str | None, Query(description="run_…")] = None,
) -> AuditFilter:
    """The filters that all audit routes share; ``since`` is inclusive, ``until`` is not."""
    for moment in (since, until):
        if moment is not None and moment.tzinfo is None:
            raise InvalidError("since and until need a time zone, for example …T00:00:00Z")
    return AuditFilter(
        decision=decision,
        action=action,
        category=category,
        connector=connector,
        user_id=decode("usr", user_id) if user_id else None,
        api_key_id=decode("key", api_key_id) if api_key_id else None,
        since=since,
        until=until,
        tool=tool,
        run_id=decode("run", run_id) if run_id else None,
    )


Where = Annotated[AuditFilter, Depends(filters)]


@router.get("/audit", response_model=Page[AuditRecord])
async def list_audit(
    caller: Reader, request: Request, where: Where, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Entries, newest first."""
    signer = services_of(request).cursors
    rows = await _log(request).list(
        caller.org_id, where, limit=limit + 1, before_seq=signer.decode(cursor)
    )
    return signer.page(list(rows), limit, lambda row: row.seq)


@router.get("/audit/stream")
async def stream_audit(
    caller: Reader,
    request: Request,
    where: Where,
    after: Annotated[int | None, Query(ge=0, le=MAX_SEQ)] = None,
) -> Response:
    """Entries as they are written; ``Last-Event-ID`` is a seq. Without one: from now on."""
    await hold_stream(request, caller)
    log, ping_secs = _log(request), services_of(request).settings.sse_ping_secs
    fresh = after is None and "last-event-id" not in request.headers
    start = await log.head(caller.org_id) if fresh else resume_after(request.headers, after)

    tail = log.tail(caller.org_id, start, where, ping_secs=ping_secs)
    return EventStream(_frames(tail, services_of(request).metrics.sse_streams))


@router.get("/audit/verify")
async def verify_audit(
    caller: Reader,
    request: Request,
    from_seq: Annotated[int | None, Query(ge=1, le=MAX_SEQ)] = None,
    to_seq: Annotated[int | None, Query(ge=1, le=MAX_SEQ)] = None,
) -> Verification:
    """Recompute the hash chain."""
    return await _log(request).verify(caller.org_id, from_seq, to_seq)


def _file_of(form: Form) -> dict[int | str, dict[str, Any]]:
    """What the document says of an export."""
    return {200: {"description": "A file.", "content": {MEDIA_TYPES[form]: {}}}}


@router.get("/audit.csv", response_class=Response, responses=_file_of("csv"))
async def export_csv(caller: Reader, request: Request, where: Where) -> Response:
    """All matching entries as CSV, oldest first, streamed."""
    return _export(caller, request, where, "csv")


@router.get("/audit.ndjson", response_class=Response, responses=_file_of("ndjson"))
async def export_ndjson(caller: Reader, request: Request, where: Where) -> Response:
    """All matching entries as NDJSON, oldest first, streamed."""
    return _export(caller, request, where, "ndjson")


@router.get("/audit.parquet", response_class=Response, responses=_file_of("parquet"))
async def export_parquet(caller: Reader, request: Request, where: Where) -> Response:
    """All matching entries as a Parquet file, oldest first, streamed; JSON columns are texts."""
    return _export(caller, request, where, "parquet")


@router.get("/audit/{audit_id}")
async def read_audit(audit_id: str, caller: Reader, request: Request) -> AuditRecord:
    """One entry with its whole policy input."""
    return await _log(request).get(caller.org_id, decode("aud", audit_id))


def _export(caller: Allowed, request: Request, where: AuditFilter, form: Form) -> Response:
    headers = {"content-disposition": f'attachment; filename="audit.{form}"'}
    blocks = export(_log(request), caller.org_id, form, where)
    return StreamingResponse(blocks, media_type=MEDIA_TYPES[form], headers=headers)


def _log(request: Request) -> AuditLog:
    log: AuditLog = services_of(request).gates.audit
    return log


async def _frames(
    tail: AsyncGenerator[AuditRecord | None], streams: Gauge
) -> AsyncGenerator[bytes]:
    streams.inc()
    try:
        async with aclosing(tail) as records:
            async for record in records:
                if record is None:
                    yield PING
                else:
                    yield frame("audit", record.model_dump(mode="json"), record.seq)
    finally:
        streams.dec()
