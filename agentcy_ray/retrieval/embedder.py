"""The ``Embedder`` protocol: texts in, Arrow vectors out.

A matrix ends where the model does. From there to the database, across processes too, vectors are
fixed-size lists of an Arrow array, which are sent, sliced and encoded without being copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

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
