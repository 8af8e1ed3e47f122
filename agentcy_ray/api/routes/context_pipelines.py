"""Continuous pipelines: what they are, who may feed them, what they took."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from agentcy_ray.api.idempotency import once, replied
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.core.ids import IngestTokenId, decode, encode
from agentcy_ray.ingest.continuous.records import (
    IngestToken,
    NewPipeline,
    NewToken,
    Pipeline,
    PipelineChange,
    PipelineRun,
)

router = APIRouter(prefix="/context/pipelines", tags=["pipelines"])
Reader = Annotated[Allowed, permit("pipeline.read")]
Writer = Annotated[Allowed, permit("pipeline.write")]


class ShownToken(BaseModel):
    """A new token. Its texts are shown this once: null when an `Idempotency-Key` is used again."""

    id: IngestTokenId
    token: str | None = Field(repr=False)
    secret: str | None = Field(repr=False)
    """For signatures; null without `with_secret` too."""
    url: str | None = Field(repr=False)
    """Where records are posted."""


@router.get("", response_model=Page[Pipeline])
async def list_pipelines(
    caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Continuous pipelines, newest first."""
    services = services_of(request)
    position = services.cursors.decode(cursor)
    rows = await services.intake.pipelines.list(
        caller.principal, limit=limit + 1, before=UUID(position) if position else None
    )
    return services.cursors.page(rows, limit, lambda row: row.id)


@router.post("", status_code=201, response_model=Pipeline)
async def create_pipeline(body: NewPipeline, caller: Writer, request: Request) -> Response:
    """Make a pipeline of kind webhook, file_drop, connector or otlp."""
    pipelines = services_of(request).intake.pipelines
    return await once(request, caller, lambda: pipelines.create(caller.principal, body), 201)


@router.get("/{pipeline_id}")
async def read_pipeline(pipeline_id: str, caller: Reader, request: Request) -> Pipeline:
    """One pipeline."""
    return await _pipeline(request, caller, pipeline_id)


@router.patch("/{pipeline_id}")
async def change_pipeline(
    pipeline_id: str, body: PipelineChange, caller: Writer, request: Request
) -> Pipeline:
    """Change name, config, mapping, signing, or switch it on or off."""
    pipelines = services_of(request).intake.pipelines
    return await pipelines.update(caller.principal, decode("pip", pipeline_id), body)


@router.delete("/{pipeline_id}", status_code=204)
async def delete_pipeline(pipeline_id: str, caller: Writer, request: Request) -> Response:
    """Delete a pipeline with its tokens and runs; what it took stays in the graph."""
    pipelines = services_of(request).intake.pipelines
    await pipelines.delete(caller.principal, decode("pip", pipeline_id))
    return Response(status_code=204)


@router.get("/{pipeline_id}/runs", response_model=Page[PipelineRun])
async def list_runs(
    pipeline_id: str, caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """What it took between two seals, newest first; for kind connector, its source's syncs."""
    services = services_of(request)
    position = services.cursors.decode(cursor)
    rows = await services.intake.pipelines.runs(
        caller.principal,
        decode("pip", pipeline_id),
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    page = services.cursors.page(rows, limit, lambda row: row[0])
    return {**page, "items": [run for _, run in page["items"]]}


@router.get("/{pipeline_id}/tokens", response_model=Page[IngestToken])
async def list_tokens(
    pipeline_id: str, caller: Writer, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Its tokens, newest first, revoked ones too; their texts are not kept."""
    services = services_of(request)
    pipeline = await _pipeline(request, caller, pipeline_id)
    position = services.cursors.decode(cursor)
    rows = await services.intake.tokens.list(
        pipeline, limit=limit + 1, before=UUID(position) if position else None
    )
    return services.cursors.page(rows, limit, lambda row: row.id)


@router.post("/{pipeline_id}/tokens", status_code=201, response_model=ShownToken)
async def create_token(
    pipeline_id: str, body: NewToken, caller: Writer, request: Request
) -> Response:
    """Make a token; its text, and that of its signing secret, are shown this once."""
    services = services_of(request)
    pipeline = await _pipeline(request, caller, pipeline_id)
    texts: dict[str, str | None] = {"token": None, "secret": None, "url": None}

    async def make() -> dict[str, str]:
        made = await services.intake.tokens.create(
            pipeline, body.name, services.settings.public_url, with_secret=body.with_secret
        )
        texts.update(token=made.token, secret=made.secret, url=made.url)
        return {"id": encode("itk", made.id)}

    # The answer is kept for repeated requests, the texts are not.
    reply, replayed = await replied(request, caller, make, 201)
    headers = {"idempotent-replay": "true"} if replayed else None
    shown = orjson.dumps({**reply.body, **texts})
    return Response(shown, reply.status, headers, "application/json")


@router.delete("/{pipeline_id}/tokens/{token_id}", status_code=204)
async def revoke_token(
    pipeline_id: str, token_id: str, caller: Writer, request: Request
) -> Response:
    """End a token; other replicas refuse it within 5 s."""
    pipeline = await _pipeline(request, caller, pipeline_id)
    await services_of(request).intake.tokens.revoke(pipeline, decode("itk", token_id))
    return Response(status_code=204)


async def _pipeline(request: Request, caller: Allowed, pipeline_id: str) -> Pipeline:
    pipelines = services_of(request).intake.pipelines
    return await pipelines.get(caller.principal, decode("pip", pipeline_id))
