"""Ranking tools for a question: by letters alone, or with an embedder by meaning too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

import numpy as np

from agentcy_ray.agent.tool_index import LetterIndex, Rows, Scores
from agentcy_ray.agent.tool_vectors import ToolVectors
from agentcy_ray.core.tools import CatalogEntry

MEANING, LETTERS = 0.6, 0.4
KEPT = 65_536
"""Texts that the index holds; beyond it the index starts anew."""
_STEP = 256
"""Texts that are indexed before others of the loop get their turn: about 10 ms."""


class ToolGroup:
    """Tools that are in reach together, such as those of one source; indexed when first searched.

    Keep the group for as long as its tools are the same: what is known of them hangs on it.
    """

    def __init__(self, entries: Sequence[CatalogEntry]) -> None:
        self.entries = tuple(entries)
        self._rows: Rows | None = None
        self._index: LetterIndex | None = None

    async def rows(self, index: LetterIndex) -> Rows:
        """The rows of its tools' texts in ``index``."""
        if self._rows is None or self._index is not index:
            found: list[int] = []
            for entry in self.entries:
                spec = entry.spec
                found.append(index.row(f"{entry.name} {spec.title} {spec.description}"))
                if len(found) % _STEP == 0:
                    await asyncio.sleep(0)
            self._rows, self._index = np.array(found, np.intp), index
        return self._rows


class ToolSearch:
    """Scores tools; letters are indexed and texts embedded once, whichever searches want them."""

    def __init__(self, vectors: ToolVectors | None = None) -> None:
        self._vectors = vectors
        self._letters = LetterIndex()

    async def rank(
        self, question: str, groups: Sequence[ToolGroup], top_k: int
    ) -> list[tuple[CatalogEntry, float]]:
        """The ``top_k`` best tools with their scores in 0..1, best first; ties by name."""
        if len(self._letters.texts) > KEPT:
            self._letters = LetterIndex()
            if self._vectors is not None:
                self._vectors.forget()
        letters = self._letters
        parts = [await group.rows(letters) for group in groups]
        rows = np.concatenate(parts) if parts else np.empty(0, np.intp)
        if not len(rows):
            return []
        scores = letters.scores(question, rows)
        if self._vectors is not None and letters is self._letters:
            cosine = await self._vectors.cosine(question, rows, letters.texts)
            if cosine is not None:
                scores = (MEANING * cosine + LETTERS * scores).astype(np.float32)
        return _best(scores, list(chain.from_iterable(g.entries for g in groups)), top_k)

    async def settled(self) -> None:
        """Return once everything that was searched has its vector, or the model has failed."""
        if self._vectors is not None:
            await self._vectors.settled()

    async def close(self) -> None:
        """Stop embedding."""
        if self._vectors is not None:
            await self._vectors.close()


def _best(
    scores: Scores, entries: Sequence[CatalogEntry], top_k: int
) -> list[tuple[CatalogEntry, float]]:
    place = max(len(scores) - top_k, 0)
    least = np.partition(scores, place)[place]
    # All that tie with the last one too, so that names decide.
    near: list[int] = np.flatnonzero(scores >= least).tolist()
    order = sorted(near, key=lambda i: (-scores[i], entries[i].name))
    return [(entries[i], round(float(scores[i]), 4)) for i in order[:top_k]]
