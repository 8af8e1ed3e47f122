"""The ``Embedder`` protocol: texts in, Arrow vectors out.

A matrix ends where the model does. From there to the database, across processes too, vectors are
fixed-size lists of an Arrow array, which are sent, sliced and encoded without being copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
"""Shape (texts, dim), rows of unit length."""

Vectors: TypeAlias = pa.FixedSizeListArray
"""One list of ``dim`` float32 a text, of unit length, none of them null."""


@dataclass(frozen=True)
class EmbedderInfo:
    """Identity of an embedder. Two with one signature give comparable vectors."""

    reference: str
    """Model reference, for example ``local:all-MiniLM-L6-v2``."""
    signature: str
    """Reference, revision and sequence length; part of a space's identity."""
    dim: int
    max_tokens: int
    revision: str = ""
    """Hash of the weights, or the name that a server gives to what it runs."""


class Embedder(Protocol):
    """A model that turns texts into vectors."""

    @property
    def info(self) -> EmbedderInfo:
        """What it is."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of ``texts`` in their order.

        Raises:
            EmbedderUnavailableError: the model is away or cannot be loaded.
        """
        ...


@dataclass(frozen=True)
class EmbedUsage:
    """What a call cost. Adds up."""

    tokens: int = 0
    """That the model read; padding is not counted."""
    gpu_secs: float = 0.0
    """Seconds in which it had a GPU at work."""
    cost_usd: float = 0.0
    """What a provider charges; 0 for a model of one's own, or when the price is not known."""

    def __add__(self, other: EmbedUsage) -> EmbedUsage:
        return EmbedUsage(
            self.tokens + other.tokens,
            self.gpu_secs + other.gpu_secs,
            self.cost_usd + other.cost_usd,
        )


@dataclass(frozen=True)
class Embedded:
    """Vectors, and what they cost."""

    vectors: Vectors
    usage: EmbedUsage


@runtime_checkable
class MeteredEmbedder(Embedder, Protocol):
    """An embedder that says what a call cost."""

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """As ``embed``.

        Raises:
            EmbedderUnavailableError: the model is away or cannot be loaded.
            EmbedderRefusedError: it will not embed these texts, or not for us.
        """
        ...


class _Estimating:
    """An embedder that counts nothing, with the tokens guessed."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def info(self) -> EmbedderInfo:
        return self._embedder.info

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await self._embedder.embed(texts)

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        vectors = await self._embedder.embed(texts)
        return Embedded(vectors, EmbedUsage(tokens=sum(map(guessed_tokens, texts))))


def metered(embedder: Embedder) -> MeteredEmbedder:
    """``embedder`` where it says what a call cost, else around it one that guesses."""
    return embedder if isinstance(embedder, MeteredEmbedder) else _Estimating(embedder)


def guessed_tokens(text: str) -> int:
    """Tokens of a text as nobody has counted them: right for English give or take a third."""
    return len(text.encode()) // 4 + 1


def vectors_of(matrix: NDArray[np.float32]) -> Vectors:
    """The rows of a matrix of shape (texts, dim), dim > 0; a contiguous one is not copied."""
    flat = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix.shape[1])


def matrix_of(vectors: Vectors) -> Matrix:
    """A read-only view of vectors, shape (texts, dim); nothing is copied."""
    flat: NDArray[Any] = vectors.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(vectors), vectors.type.list_size)


def no_vectors(dim: int) -> Vectors:
    """Vectors of no texts."""
    return vectors_of(np.empty((0, dim), dtype=np.float32))
