"""Embedders by the reference of their model: what serves several spaces at a time."""

from __future__ import annotations

from typing import Protocol

from agentcy_ray.retrieval.embedder import Embedder


class Embedders(Protocol):
    """Gives the embedder of a model, which may lie in other processes."""

    async def of(self, reference: str) -> Embedder:
        """The embedder of ``reference``; the same one for the same reference.

        Raises:
            ConfigError: the reference names no kind of embedder, or a setting for it is missing.
            EmbedderUnavailableError: the model is away or cannot be loaded.
        """
        ...


class OneEmbedder:
    """``Embedders`` of a process that has one model, whatever is asked for.

    A space that another model made is told from it by its signature (``Space.require``).
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def of(self, reference: str) -> Embedder:
        """The one embedder."""
        return self._embedder
