"""The ``Embedder`` protocol: texts in, a matrix out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
"""Shape (texts, dim), rows of unit length."""


@dataclass(frozen=True)
class EmbedderInfo:
    """Identity of an embedder. Two with one signature give comparable vectors."""

    reference: str
    """Model reference, for example ``local:all-MiniLM-L6-v2``."""
    signature: str
    """Reference, weights' hash and sequence length; part of a space's identity."""
    dim: int
    max_tokens: int


class Embedder(Protocol):
    """A model that turns texts into vectors."""

    @property
    def info(self) -> EmbedderInfo:
        """What it is."""
        ...

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Vectors of ``texts`` in their order.

        Raises:
            EmbedderUnavailableError: the model is away or cannot be loaded.
        """
        ...
