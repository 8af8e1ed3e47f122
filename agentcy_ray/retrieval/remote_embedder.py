"""An embedder whose model runs elsewhere and is asked in requests.

A call is cut into requests of a bounded number of texts and tokens, of which a bounded number is
under way; one place is kept for questions, which so pass bulk work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.retrieval.batching import Rows, batches_of
from agentcy_ray.retrieval.embedder import (
    Embedded,
    EmbedderInfo,
    EmbedUsage,
    Matrix,
    Vectors,
    guessed_tokens,
    vectors_of,
)

Ask = Callable[[list[str]], Awaitable[tuple[Matrix, EmbedUsage]]]
"""Embeds the texts of one request: shape (texts, dim), rows of unit length."""
Close = Callable[[], Awaitable[None]]

REQUEST_TEXTS = 256
REQUEST_TOKENS = 32_768
"""A provider takes ten times as many; a request that fails is repeated whole."""
IN_FLIGHT = 8
QUESTION_TOKENS = 1_024
"""A call with fewer tokens in all is a question, and is served beside bulk work."""
ABOUT_TEXTS = frozenset({400, 413, 422})
"""Statuses that say something about the texts, not about us or the server."""


async def _nothing() -> None:
    pass


class RemoteEmbedder:
    """A ``MeteredEmbedder`` over ``ask``."""

    def __init__(self, info: EmbedderInfo, ask: Ask, close: Close = _nothing) -> None:
        self.info = info
        self._ask = ask
        self._close = close
        self._bulk = asyncio.Semaphore(IN_FLIGHT - 1)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of ``texts`` in their order; see ``embed_metered``."""
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """Vectors of ``texts``, and what the server says they cost.

        Raises:
            EmbedderUnavailableError: the server is away, or answers what is no embedding.
            EmbedderRefusedError: it refuses these texts, or the key.
        """
        tokens = [guessed_tokens(text) for text in texts]
        batches = batches_of(tokens, tokens=REQUEST_TOKENS, texts=REQUEST_TEXTS)
        vectors = np.empty((len(texts), self.info.dim), dtype=np.float32)
        if sum(tokens) < QUESTION_TOKENS:
            used = [await self._request(texts, rows, vectors) for rows in batches]
        else:
            tasks = [asyncio.ensure_future(self._in_turn(texts, rows, vectors)) for rows in batches]
            try:
                used = await asyncio.gather(*tasks)
            finally:  # one that failed is all that the caller will hear of
                for task in tasks:
                    task.cancel()
        return Embedded(vectors_of(vectors), sum(used, EmbedUsage()))

    async def aclose(self) -> None:
        """Let go of the server."""
        await self._close()

    async def _in_turn(self, texts: Sequence[str], rows: Rows, into: Matrix) -> EmbedUsage:
        async with self._bulk:
            return await self._request(texts, rows, into)

    async def _request(self, texts: Sequence[str], rows: Rows, into: Matrix) -> EmbedUsage:
        # A blank text has no embedding at a provider; a space means as little and has one.
        asked = [texts[int(row)] for row in rows]
        matrix, usage = await self._ask([text if text.strip() else " " for text in asked])
        if matrix.shape != (len(rows), self.info.dim):
            raise EmbedderUnavailableError(
                f"{self.info.reference} made {matrix.shape[0]} vectors of {matrix.shape[1]} "
                f"numbers for {len(rows)} texts, and before of {self.info.dim}: the server runs "
                "another model now, or fails; see its log, then restart",
                reference=self.info.reference,
            )
        into[rows] = matrix
        return usage
