"""What search and publish need of embedders, and the least that gives it."""

from __future__ import annotations

from typing import Protocol

from agentcy_ray.retrieval.embedder import MeteredEmbedder


class AnyEmbedders(Protocol):
    """The embedder of each space's model."""

    async def of(self, reference: str) -> MeteredEmbedder:
        """The embedder of a model.

        Raises:
            InvalidError: there is no such kind of reference, or it lacks a setting.
            EmbedderUnavailableError: the model cannot be loaded, or is away.
        """
        ...


class OneEmbedder:
    """``AnyEmbedders`` of a process that has one model, whatever is asked for.

    A space that another model made is told from it by its signature (``Space.require``).
    """

    def __init__(self, embedder: MeteredEmbedder) -> None:
        self._embedder = embedder

    async def of(self, reference: str) -> MeteredEmbedder:
        """The one embedder."""
        return self._embedder
