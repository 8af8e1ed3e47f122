"""``POST /v1/embeddings``: vectors of texts, in OpenAI's form."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.routes.v1.asked import bad
from agentcy_ray.api.routes.v1.budgeted import embedded
from agentcy_ray.api.services import Services, services_of
from agentcy_ray.core.errors import EmbedderRefusedError, InvalidError, NotFoundError
from agentcy_ray.retrieval.embedder import Matrix, MeteredEmbedder, matrix_of
from agentcy_ray.retrieval.embedders import REMOTE

router = APIRouter(tags=["v1"])
Invoker = Annotated[Allowed, permit("llm.invoke")]
MAX_INPUTS = 256
Tokens = list[int]


class EmbeddingsRequest(BaseModel):
    """The body of ``POST /v1/embeddings``."""

    model: str = Field(min_length=1, max_length=500, examples=["local:all-MiniLM-L6-v2"])
    input: str | list[str] | Tokens | list[Tokens] = Field(
        description=f"A text, or at most {MAX_INPUTS} texts. Token numbers are not read."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)


class EmbeddingEntry(BaseModel):
    """A vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[EmbeddingEntry]
    model: str
    usage: EmbeddingUsage


@router.post("/embeddings", response_model=EmbeddingList)
async def embeddings(body: EmbeddingsRequest, caller: Invoker, request: Request) -> Response:
    """Vectors of texts, by the default embedding model, one of a space of the organisation, or a
    model that is served elsewhere.
    """
    texts = _texts(body)
    services = services_of(request)
    embedder = await _embedder(services, caller, body.model)
    info = embedder.info
    if info.reference != body.model:
        raise _absent(body.model)
    if body.dimensions not in (None, info.dim):
        why = f"{body.model} makes vectors of {info.dim} numbers, no others; leave it out"
        raise bad("dimensions", why)
    made = await embedded(services.spending, caller.principal, body.model, embedder, texts)
    matrix = matrix_of(made.vectors)
    tokens = made.usage.tokens
    answer = {
        "object": "list",
        "data": _entries(matrix, body.encoding_format),
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


def _texts(body: EmbeddingsRequest) -> list[str]:
    """The texts to embed.

    Raises:
        InvalidError: there are none, too many, empty ones, or token numbers instead.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or len(texts) > MAX_INPUTS:
        raise bad("input", f"send 1 to {MAX_INPUTS} texts at once, not {len(texts)}")
    found: list[str] = []
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise bad("input", "token numbers are not read, since models differ in them; send text")
        if not text.strip():
            raise bad(f"input.{place}", "an empty text has no vector; leave it out")
        found.append(text)
    return found


async def _embedder(services: Services, caller: Allowed, reference: str) -> MeteredEmbedder:
    """The embedder of a model that the organisation uses, or that another server runs.

    Whoever may ask for vectors may not make the cluster load any model there is.

    Raises:
        NotFoundError: ``model_not_found``.
    """
    known = reference == services.settings.embedding_model
    if not known and reference.partition(":")[0] not in REMOTE:
        spaces = await services.spaces.list(caller.org_id)
        known = reference in {space.embedder for space in spaces}
        if not known:
            raise _absent(reference)
    try:
        return await services.embedders.of(reference)
    except InvalidError as error:
        raise _absent(reference, error.message) from None
    except EmbedderRefusedError as error:
        if error.details.get("status") != 404:
            raise
        raise _absent(reference, error.message) from None


def _absent(reference: str, why: str | None = None) -> NotFoundError:
    why = why or f"{reference!r} is no embedding model that is in use here"
    return NotFoundError(
        f"{why}; GET /v1/models lists what there is",
        code="model_not_found",
        errors=[{"loc": ["model"], "message": "there is no such model"}],
    )


def _entries(matrix: Matrix, form: str) -> list[dict[str, Any]]:
    return [
        {"object": "embedding", "index": index, "embedding": _written(row, form)}
        for index, row in enumerate(matrix)
    ]


def _written(row: Any, form: str) -> Any:
    return base64.b64encode(row.astype("<f4").tobytes()).decode() if form == "base64" else row
