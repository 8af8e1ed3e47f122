"""An embedder that shows on ``/metrics`` what passes through it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agentcy_ray.core.metrics import Metrics
from agentcy_ray.retrieval.embedder import Embedded, EmbedderInfo, MeteredEmbedder, Vectors


class CountedEmbedder:
    """A ``MeteredEmbedder`` around another one: texts, tokens and the time of each call."""

    def __init__(self, embedder: MeteredEmbedder, reference: str, metrics: Metrics) -> None:
        self._embedder = embedder
        self._seconds = metrics.embed_seconds.of(reference)
        self._items = metrics.embed_items.of(reference)
        self._tokens = metrics.embed_tokens.of(reference)

    @property
    def info(self) -> EmbedderInfo:
        """What the other one is."""
        return self._embedder.info

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As the other one's."""
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """As the other one's; a call that fails is not counted."""
        began = time.perf_counter()
        made = await self._embedder.embed_metered(texts)
        if texts:  # none are embedded to see whether the model is up
            self._seconds.observe(time.perf_counter() - began)
            self._items.inc(len(texts))
            self._tokens.inc(made.usage.tokens)
        return made
