"""Cutting texts into batches of like length, each within a budget of tokens.

A model computes every text of a batch at the length of the longest one. Sorted by their true
lengths neighbours differ little, so hardly a token is computed for nothing; and a budget of tokens
keeps a batch of long texts as large, in memory and time, as one of short texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
"""Indices of texts."""


def batches_of(
    lengths: Sequence[int] | NDArray[Any], *, tokens: int, texts: int, multiple: int = 1
) -> list[Rows]:
    """Indices of all texts, longest first, cut into batches.

    Args:
        lengths: tokens of each text.
        tokens: budget of a batch, padding included; a single text may pass it.
        texts: most texts of a batch.
        multiple: batches are padded to a multiple of this.
    """
    longest_first = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[Rows] = []
    start = 0
    while start < len(longest_first):
        width = max(1, -(-int(lengths[longest_first[start]]) // multiple) * multiple)
        size = max(1, min(texts, tokens // width))
        batches.append(longest_first[start : start + size])
        start += size
    return batches
