"""Texts of tools by their letters: an inverted index over trigrams.

The measure is trigram similarity, that of Postgres' pg_trgm
(https://www.postgresql.org/docs/current/pgtrgm.html), averaged with the share of the question's
trigrams that a text holds: a short question would else lose against long descriptions.
"""

from __future__ import annotations

import re
from array import array

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
"""Numbers of texts in the index, shape (texts,)."""
Scores = NDArray[np.float32]
_WORD = re.compile(r"\w+")


class LetterIndex:
    """Grows with each new text; the same text has one row, whoever's tool it is."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._rows: dict[str, int] = {}
        self._sizes = array("i")
        self._holders: dict[str, array[int]] = {}

    def row(self, text: str) -> int:
        """The row of ``text``; a new text is indexed."""
        row = self._rows.get(text)
        if row is None:
            row = self._rows[text] = len(self.texts)
            self.texts.append(text)
            held = trigrams(text)
            self._sizes.append(len(held))
            for trigram in held:
                self._holders.setdefault(trigram, array("i")).append(row)
        return row

    def scores(self, question: str, rows: Rows) -> Scores:
        """The scores of ``rows`` for ``question``, in 0..1 and in the order of ``rows``."""
        asked = trigrams(question)
        holders = [
            np.frombuffer(held, np.int32)
            for trigram in asked
            if (held := self._holders.get(trigram)) is not None
        ]
        if not holders:
            return np.zeros(len(rows), np.float32)
        counts = np.bincount(np.concatenate(holders), minlength=len(self.texts))
        shared = counts[rows]
        sizes = np.frombuffer(self._sizes, np.int32)[rows]
        scores = (shared / (len(asked) + sizes - shared) + shared / len(asked)) / 2
        return scores.astype(np.float32)


def trigrams(text: str) -> frozenset[str]:
    """Trigrams of the words of ``text``, lower case, padded by two blanks before and one after."""
    found: set[str] = set()
    for word in _WORD.findall(text.lower().replace("_", " ")):
        padded = f"  {word} "
        found.update(padded[i : i + 3] for i in range(len(padded) - 2))
    return frozenset(found)
