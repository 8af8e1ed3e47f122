"""``openai:`` and ``openai_compatible:``: a server that speaks OpenAI's ``/v1/embeddings``.

Vectors are asked for as base64 and never become Python numbers.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any

import numpy as np

from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.retrieval.embedder import EmbedderInfo, EmbedUsage, Matrix, guessed_tokens
from agentcy_ray.retrieval.embeddings_http import EmbeddingsServer
from agentcy_ray.retrieval.remote_embedder import RemoteEmbedder

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings

MAX_TOKENS = 8_191
_FIRST_TEXT = "How long is a vector?"


async def open_openai(reference: str, settings: Settings) -> RemoteEmbedder:
    """The embedder of a server; asks it what it runs, by embedding one short text.

    Raises:
        InvalidError: a base URL or a key is not set.
        EmbedderUnavailableError: the server is away, or answers what is no embedding.
        EmbedderRefusedError: it does not know the model, or refuses the key.
    """
    scheme, _, model = reference.partition(":")
    usd_per_token = _usd_per_million(scheme, model) / 1_000_000
    server = EmbeddingsServer.of(reference, settings)

    async def ask(texts: list[str]) -> tuple[Matrix, EmbedUsage]:
        answer = await server.ask({"model": model, "input": texts, "encoding_format": "base64"})
        tokens = _tokens(answer) or sum(map(guessed_tokens, texts))
        usage = EmbedUsage(tokens=tokens, cost_usd=tokens * usd_per_token)
        return _matrix(reference, answer), usage

    try:
        first = await server.ask({
            "model": model,
            "input": [_FIRST_TEXT],
            "encoding_format": "base64",
        })
        revision = str(first.get("model") or model)
        info = EmbedderInfo(
            reference=reference,
            signature=f"{reference}@{revision}/{MAX_TOKENS}",
            dim=_matrix(reference, first).shape[1],
            max_tokens=MAX_TOKENS,
            revision=revision,
        )
    except BaseException:
        await server.aclose()
        raise
    return RemoteEmbedder(info, ask, server.aclose)


def _tokens(answer: dict[str, Any]) -> int:
    usage: Any = answer.get("usage") or {}
    try:
        return int(usage.get("prompt_tokens") or usage.get("total_tokens") or 0)
    except (AttributeError, TypeError, ValueError):
        return 0


def _matrix(reference: str, answer: dict[str, Any]) -> Matrix:
    """The vectors of an answer in the order of its input, of unit length, shape (rows, dim)."""
    try:
        items = sorted(answer["data"], key=lambda item: int(item["index"]))
        matrix = np.stack([_vector(item["embedding"]) for item in items])
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        if matrix.ndim != 2 or not np.isfinite(lengths).all():
            raise ValueError("some of it are no finite numbers")
    except (KeyError, TypeError, ValueError, Base64Error) as error:
        raise EmbedderUnavailableError(
            f"{reference} answered what is no list of embeddings ({error!r}); is its base URL "
            "that of an OpenAI-compatible server, with /v1?",
            reference=reference,
        ) from error
    return matrix / np.maximum(lengths, np.float32(1e-12))


def _vector(embedding: Any) -> Matrix:
    # Some servers do not know the encoding and send numbers.
    if isinstance(embedding, str):
        return np.frombuffer(b64decode(embedding, validate=True), dtype="<f4")
    return np.asarray(embedding, dtype=np.float32)


def _usd_per_million(scheme: str, model: str) -> float:
    """Price of a million tokens, US dollars; 0 where nobody is known to charge."""
    if scheme != "openai":
        return 0.0
    from genai_prices import Usage, calc_price

    try:
        usage = Usage(input_tokens=1_000_000)
        return float(calc_price(usage, model, provider_id="openai").total_price)
    except LookupError:
        return 0.0
