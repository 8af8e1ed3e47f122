"""Sources and their syncs."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from agentcy_ray.api.idempotency import once
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.connectors.source_records import NewSource, Source, SourceChange
from agentcy_ray.core.errors import SourceConfigError
from agentcy_ray.core.ids import JobId, PackageId, SyncRunId, decode
from agentcy_ray.ingest.syncs import PackageInfo, SyncRun

router = APIRouter(tags=["sources"])
Reader = Annotated[Allowed, permit("source.read")]
Creator = Annotated[Allowed, permit("source.create")]
Updater = Annotated[Allowed, permit("source.update")]
Deleter = Annotated[Allowed, permit("source.delete")]
Syncer = Annotated[Allowed, permit("source.sync")]


class SyncRequest(BaseModel):
    """How to sync; everything is optional."""

    mode: Literal["full", "incremental"] | None = None
    force: bool = False


class SyncStarted(BaseModel):
    """A sync run that was queued."""

    sync_run_id: SyncRunId
    job_id: JobId | None


class PurgeStarted(BaseModel):
    """The job that hides the entities of a deleted source."""

    job_id: JobId


class RevertRequest(BaseModel):
    """The package whose state shall be published again."""

    package_id: PackageId


class Fault(BaseModel):
    """Why a source does not work; kind ∈ credentials, scope, unreachable, config, rate_limited."""

    kind: str
    message: str


class TestAnswer(BaseModel):
    """Whether a source can be reached as configured."""

    ok: bool
    faults: list[Fault]


@router.get("/sources", response_model=Page[Source])
async def list_sources(
    caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Sources, newest first; secrets read as ``***``."""
    signer = services_of(request).cursors
    position = signer.decode(cursor)
    rows = await services_of(request).sources.list(
        caller.org_id,
        realms=caller.principal.realms,
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.post("/sources", status_code=201, response_model=Source)
async def create_source(body: NewSource, caller: Creator, request: Request) -> Response:
    """Add a source; its config is checked, and the source reached, before it is stored."""
    sources = services_of(request).sources
    return await once(
        request, caller, lambda: sources.create(caller.principal, body, check=True), 201
    )


@router.get("/sources/{source_id}")
async def read_source(source_id: str, caller: Reader, request: Request) -> Source:
    """One source."""
    return await _visible(request, caller, source_id)


@router.patch("/sources/{source_id}")
async def change_source(
    source_id: str, body: SourceChange, caller: Updater, request: Request
) -> Source:
    """Change fields; a secret sent as ``***`` keeps its value."""
    return await services_of(request).sources.update(
        caller.principal, decode("src", source_id), body
    )


@router.delete(
    "/sources/{source_id}",
    status_code=204,
    responses={202: {"model": PurgeStarted, "description": "Deleted; a job hides its entities."}},
)
async def delete_source(
    source_id: str, caller: Deleter, request: Request, purge: bool = False
) -> Response:
    """Delete a source with its secrets, runs and packages; with ``purge`` a job hides its entities
    too, and later deletes them."""
    services = services_of(request)
    source = await _visible(request, caller, source_id)
    if not purge:
        await services.sources.delete(caller.principal, source.id)
        return Response(status_code=204)
    job = await services.delete_and_purge(caller.principal, source)
    return JSONResponse(PurgeStarted(job_id=job.id).model_dump(mode="json"), 202)


@router.post("/sources/{source_id}/test")
async def test_source(source_id: str, caller: Syncer, request: Request) -> TestAnswer:
    """Reach the source with its credentials."""
    source = await _visible(request, caller, source_id)
    try:
        await services_of(request).check_source(caller.org_id, source.id)
    except SourceConfigError as error:
        kind = str(error.details.get("kind", "config"))
        return TestAnswer(ok=False, faults=[Fault(kind=kind, message=error.message)])
    return TestAnswer(ok=True, faults=[])


@router.post("/sources/{source_id}/sync", status_code=202, response_model=SyncStarted)
async def sync_source(
    source_id: str, body: SyncRequest, caller: Syncer, request: Request
) -> Response:
    """Queue a sync; 409 ``sync_in_progress`` while one is active."""
    syncs = services_of(request).syncs

    async def start() -> SyncStarted:
        run = await syncs.request(
            caller.principal, decode("src", source_id), mode=body.mode, force=body.force
        )
        return SyncStarted(sync_run_id=run.id, job_id=run.job_id)

    return await once(request, caller, start, 202)


@router.post("/sources/{source_id}/revert", status_code=202, response_model=SyncStarted)
async def revert_source(
    source_id: str, body: RevertRequest, caller: Updater, request: Request
) -> Response:
    """Queue the publishing of an older state."""
    syncs = services_of(request).syncs

    async def start() -> SyncStarted:
        run = await syncs.request_revert(
            caller.principal, decode("src", source_id), body.package_id
        )
        return SyncStarted(sync_run_id=run.id, job_id=run.job_id)

    return await once(request, caller, start, 202)


@router.get("/sources/{source_id}/runs", response_model=Page[SyncRun])
async def list_sync_runs(
    source_id: str, caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Sync runs of a source, newest first."""
    source, signer = await _visible(request, caller, source_id), services_of(request).cursors
    position = signer.decode(cursor)
    rows = await services_of(request).syncs.list(
        caller.org_id, source.id, limit=limit + 1, before=UUID(position) if position else None
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.get("/sources/{source_id}/packages", response_model=Page[PackageInfo])
async def list_packages(
    source_id: str, caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Published packages of a source, newest first."""
    source, signer = await _visible(request, caller, source_id), services_of(request).cursors
    position = signer.decode(cursor)
    rows = await services_of(request).syncs.packages(
        caller.org_id, source.id, limit=limit + 1, before=UUID(position) if position else None
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.get("/sync-runs/{sync_run_id}")
async def read_sync_run(sync_run_id: str, caller: Reader, request: Request) -> SyncRun:
    """A sync run with its counts and live progress."""
    services = services_of(request)
    run = await services.syncs.get(caller.org_id, decode("syn", sync_run_id))
    await services.visible_source(caller.principal, run.source_id)
    return run


@router.post("/sync-runs/{sync_run_id}/cancel", status_code=202)
async def cancel_sync_run(sync_run_id: str, caller: Syncer, request: Request) -> SyncRun:
    """Ask a sync to stop; one that publishes already goes on."""
    run = await read_sync_run(sync_run_id, caller, request)
    return await services_of(request).syncs.cancel(caller.org_id, run.id)


async def _visible(request: Request, caller: Allowed, source_id: str) -> Source:
    """A source in the caller's realms, by its public id."""
    services = services_of(request)
    return await services.visible_source(caller.principal, decode("src", source_id))
