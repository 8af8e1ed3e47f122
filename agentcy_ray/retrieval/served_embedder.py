"""``vllm:NAME``: an embedding model that the cluster serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from agentcy_ray.core.errors import (
    AgentcyError,
    EmbedderRefusedError,
    EmbedderUnavailableError,
    ModelError,
)
from agentcy_ray.retrieval.embedder import EmbedderInfo, EmbedUsage, Matrix, guessed_tokens
from agentcy_ray.retrieval.remote_embedder import ABOUT_TEXTS, RemoteEmbedder


class ServedVectors(Protocol):
    """The embedding models that the cluster serves, by name."""

    async def embed(self, name: str, texts: Sequence[str]) -> Matrix:
        """Vectors of ``texts``, shape (texts, dim), rows of unit length.

        Raises:
            ModelError: the model is away, is not served here, or its engine failed.
        """
        ...

    async def facts(self, name: str) -> dict[str, Any]:
        """``dim``, ``max_tokens`` and ``revision`` of a model; raises as ``embed``."""
        ...


async def open_served(reference: str, name: str, served: ServedVectors) -> RemoteEmbedder:
    """The embedder of a model that is ready.

    Raises:
        EmbedderUnavailableError: it is not; the message says why.

    Texts that its engine refuses are refused as ``EmbedderRefusedError``.
    """
    try:
        facts = await served.facts(name)
    except ModelError as error:
        raise _away(reference, error) from error
    revision, longest = str(facts["revision"]), int(facts["max_tokens"])
    info = EmbedderInfo(
        reference=reference,
        signature=f"{reference}@{revision}/{longest}",
        dim=int(facts["dim"]),
        max_tokens=longest,
        revision=revision,
    )

    async def ask(texts: list[str]) -> tuple[Matrix, EmbedUsage]:
        try:
            matrix = await served.embed(name, texts)
        except ModelError as error:
            raise _failed(reference, error) from error
        return matrix, EmbedUsage(tokens=sum(map(guessed_tokens, texts)))

    return RemoteEmbedder(info, ask)


def _failed(reference: str, error: ModelError) -> AgentcyError:
    status = error.details.get("status")
    if status not in ABOUT_TEXTS:
        return _away(reference, error)
    return EmbedderRefusedError(
        f"{reference}: {error.message}; leave out the texts that it cannot take",
        reference=reference,
        status=status,
        texts=True,
    )


def _away(reference: str, error: ModelError) -> EmbedderUnavailableError:
    return EmbedderUnavailableError(f"{reference}: {error.message}", reference=reference)
