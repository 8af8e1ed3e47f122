"""Okapi BM25 over a small set of candidates.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), eq. 3.15,
with the inverse document frequency of Lucene, ln(1 + (N - n + 0.5) / (n + 0.5)), never negative.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

K1 = 1.2
B = 0.75
_WORD = re.compile(r"\w+")


def bm25(query: str, texts: Sequence[str]) -> list[float]:
    """Score of each text for ``query``, divided by the highest: 0–1, all 0 when no word occurs."""
    wanted = set(_words(query))
    counts = [Counter(word for word in _words(text) if word in wanted) for text in texts]
    lengths = [len(_words(text)) for text in texts]
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    holding = Counter(word for count in counts for word in count)
    idf = {word: math.log1p((len(texts) - n + 0.5) / (n + 0.5)) for word, n in holding.items()}
    scores = [
        sum(
            idf[word] * n * (K1 + 1) / (n + K1 * (1 - B + B * length / mean))
            for word, n in count.items()
        )
        for count, length in zip(counts, lengths, strict=True)
    ]
    top = max(scores, default=0.0)
    return [score / top for score in scores] if top > 0 else [0.0] * len(scores)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
