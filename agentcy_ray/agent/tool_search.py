"""Ranking tools for a question: by letters alone, or with an embedder by meaning too.

The lexical part is trigram similarity over name and description, the measure of Postgres' pg_trgm
(https://www.postgresql.org/docs/current/pgtrgm.html), averaged with the share of the question's
trigrams that a text holds: a short question would else lose against long descriptions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from agentcy_ray.core.tools import CatalogEntry
from agentcy_ray.retrieval.embedder import Embedder, Matrix

MEANING, LETTERS = 0.6, 0.4
_WORD = re.compile(r"\w+")
KEPT = 4096
"""Texts whose trigrams and vectors are remembered; beyond it the memory starts anew."""


class ToolSearch:
    """Scores entries; remembers trigrams and vectors by text, so each is computed once."""

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder
        self._trigrams: dict[str, frozenset[str]] = {}
        self._vectors: dict[str, Matrix] = {}

    async def rank(
        self, question: str, entries: Sequence[CatalogEntry], top_k: int
    ) -> list[tuple[CatalogEntry, float]]:
        """The ``top_k`` best entries with their scores in 0..1, best first; ties by name."""
        texts = [f"{e.name} {e.spec.title} {e.spec.description}" for e in entries]
        scores = np.array([self._letters(question, text) for text in texts], dtype=np.float32)
        if self._embedder is not None and entries:
            vectors = await self._embedded(self._embedder, [question, *texts])
            cosine = np.clip(vectors[1:] @ vectors[0], 0.0, 1.0)
            scores = MEANING * cosine + LETTERS * scores
        order = sorted(range(len(entries)), key=lambda i: (-scores[i], entries[i].name))
        return [(entries[i], round(float(scores[i]), 4)) for i in order[:top_k]]

    def _letters(self, question: str, text: str) -> float:
        asked, held = trigrams(question), self._held(text)
        shared = len(asked & held)
        if not shared:
            return 0.0
        return (shared / len(asked | held) + shared / len(asked)) / 2

    def _held(self, text: str) -> frozenset[str]:
        found = self._trigrams.get(text)
        if found is None:
            if len(self._trigrams) >= KEPT:
                self._trigrams.clear()
            found = self._trigrams[text] = trigrams(text)
        return found

    async def _embedded(self, embedder: Embedder, texts: Sequence[str]) -> Matrix:
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if missing:
            if len(self._vectors) + len(missing) > KEPT:
                self._vectors.clear()
                missing = list(dict.fromkeys(texts))
            fresh = await embedder.embed(missing)
            self._vectors.update(zip(missing, fresh, strict=True))
        return np.stack([self._vectors[text] for text in texts])


def trigrams(text: str) -> frozenset[str]:
    """Trigrams of the words of ``text``, lower case, padded by two blanks before and one after."""
    found: set[str] = set()
    for word in _WORD.findall(text.lower().replace("_", " ")):
        padded = f"  {word} "
        found.update(padded[i : i + 3] for i in range(len(padded) - 2))
    return frozenset(found)
