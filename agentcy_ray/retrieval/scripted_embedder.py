"""``scripted:dim=384,seed=1``: an embedder that costs nothing, for tests, benchmarks and the demo.

A text's vector is the sum of a signed unit for each of its words, chosen by a hash, so texts that
share words are near each other, as with a model, and the same text always has the same vector. Two
seeds make two models whose vectors cannot be compared and whose neighbours agree.

Its name is its behaviour:

========  ==========================================================================
``dim``   numbers of a vector, 384 unless told
``seed``  which model, 0 unless told
``ms``    milliseconds that a call takes, 0 unless told
``fail``  a word; a call with a text that holds it is refused for its texts
========  ==========================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute

from agentcy_ray.core.errors import EmbedderRefusedError, InvalidError
from agentcy_ray.retrieval.embedder import (
    Embedded,
    EmbedderInfo,
    EmbedUsage,
    Matrix,
    Vectors,
    vectors_of,
)

pc: Any = pyarrow.compute
SCHEME = "scripted:"
MAX_DIM = 16_000
MAX_TOKENS = 8_192
_MIX, _STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Script:
    """What the part after ``scripted:`` says."""

    dim: int = 384
    seed: int = 0
    ms: float = 0.0
    fail: str = ""

    @classmethod
    def read(cls, text: str) -> Script:
        """Read ``key=value`` pairs, joined by commas.

        Raises:
            InvalidError: a key is not known, or a value does not fit.
        """
        split = (part.partition("=") for part in text.split(",") if part)
        pairs = {key.strip(): value.strip() for key, _, value in split}
        try:
            script = cls(
                dim=int(pairs.pop("dim", 384)),
                seed=int(pairs.pop("seed", 0)),
                ms=float(pairs.pop("ms", 0)),
                fail=pairs.pop("fail", "").lower(),
            )
        except ValueError as error:
            raise _unreadable(text, str(error)) from error
        if pairs:
            raise _unreadable(text, f"{', '.join(sorted(pairs))} is not known")
        if not (0 < script.dim <= MAX_DIM and script.ms >= 0):
            raise _unreadable(text, f"dim goes from 1 to {MAX_DIM}, and ms is not below 0")
        return script


class ScriptedEmbedder:
    """A ``MeteredEmbedder`` that hashes words."""

    def __init__(self, script: Script) -> None:
        self._script = script
        # What it takes and what it refuses are no part of what its vectors are.
        name = f"{SCHEME}dim={script.dim},seed={script.seed}"
        if script.ms:
            name += f",ms={script.ms:g}"
        if script.fail:
            name += f",fail={script.fail}"
        self.info = EmbedderInfo(
            reference=name,
            signature=f"{SCHEME}dim={script.dim},seed={script.seed}",
            dim=script.dim,
            max_tokens=MAX_TOKENS,
            revision="1",
        )

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of ``texts`` in their order; see ``embed_metered``."""
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """Vectors of ``texts``, and a token for each of their words.

        Raises:
            EmbedderRefusedError: a text holds the word of ``fail``.
        """
        if self._script.ms and texts:
            await asyncio.sleep(self._script.ms / 1000)
        words = pc.utf8_split_whitespace(pc.utf8_lower(pa.array(texts, pa.string())))
        flat, rows = words.flatten().dictionary_encode(), pc.list_parent_indices(words)
        if self._script.fail and self._script.fail in flat.dictionary.to_pylist():
            raise EmbedderRefusedError(
                f"{self.info.reference} refuses a text with {self._script.fail!r}, as it was told "
                "to; leave that text out",
                texts=True,
            )
        columns, signs = self._places(flat.dictionary.to_pylist())
        which = flat.indices.to_numpy(zero_copy_only=False)
        cells = rows.to_numpy(zero_copy_only=False) * self._script.dim + columns[which]
        summed = np.bincount(cells, weights=signs[which], minlength=len(texts) * self._script.dim)
        return Embedded(
            vectors_of(_units(summed.astype(np.float32).reshape(len(texts), self._script.dim))),
            EmbedUsage(tokens=len(which)),
        )

    async def aclose(self) -> None:
        """Nothing to let go of."""

    def _places(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The coordinate of each word, and its sign."""
        hashes = np.fromiter((crc32(word.encode()) for word in words), np.uint64, len(words))
        with np.errstate(over="ignore"):
            mixed = (hashes + _STEP * np.uint64(self._script.seed + 1)) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _STEP
            mixed ^= mixed >> np.uint64(32)
        signs = np.where(mixed & np.uint64(1), 1.0, -1.0)
        columns = ((mixed >> np.uint64(1)) % np.uint64(self._script.dim)).astype(np.int64)
        return columns, signs


def _units(summed: Matrix) -> Matrix:
    """Rows of unit length, in place; where no word is left, the first axis."""
    lengths = np.sqrt(np.einsum("ij,ij->i", summed, summed))
    summed[lengths == 0, 0] = 1.0
    lengths[lengths == 0] = 1.0
    summed /= lengths[:, None]
    return summed


def _unreadable(text: str, why: str) -> InvalidError:
    return InvalidError(
        f"{SCHEME}{text} cannot be read: {why}; write key=value pairs with the keys dim, seed, ms "
        "and fail",
        errors=[{"loc": ["embedder"], "message": why}],
    )
