"""Jobs: what runs in the background, what failed for good."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request

from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.core.ids import decode
from agentcy_ray.jobs.records import Job, JobStatus

router = APIRouter(prefix="/jobs", tags=["jobs"])
Reader = Annotated[Allowed, permit("job.read")]
Manager = Annotated[Allowed, permit("job.manage")]


@router.get("", response_model=Page[Job])
async def list_jobs(
    caller: Reader,
    request: Request,
    kind: str | None = None,
    status: JobStatus | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Jobs, newest first."""
    signer = services_of(request).cursors
    position = signer.decode(cursor)
    rows = await services_of(request).queue.store.list(
        caller.org_id,
        status=status,
        kind=kind,
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    return signer.page(rows, limit, lambda row: row.id)


@router.get("/{job_id}")
async def read_job(job_id: str, caller: Reader, request: Request) -> Job:
    """One job with its progress."""
    return await services_of(request).queue.store.get(caller.org_id, decode("job", job_id))


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: str, caller: Manager, request: Request) -> Job:
    """Cancel a waiting job, or ask a running one to stop."""
    return await services_of(request).queue.cancel(caller.org_id, decode("job", job_id))


@router.post("/{job_id}/retry")
async def retry_job(job_id: str, caller: Manager, request: Request) -> Job:
    """Revive a dead job with all its attempts."""
    return await services_of(request).queue.retry(caller.org_id, decode("job", job_id))
