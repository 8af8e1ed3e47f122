"""Chunks with vectors for benchmarks: clustered points and texts of a skewed vocabulary.

Made block by block from a seed, column-wise, so that a million of them cost little beside what is
measured. Vectors lie around centres, as those of real texts do: among points spread evenly all
neighbours are equally far, and neither recall nor speed would say anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from agentcy_ray.core.batches import CHUNKS
from agentcy_ray.core.ids import new_id
from agentcy_ray.retrieval.bulk_copy import copy_chunks
from agentcy_ray.retrieval.copy_rows import pc
from agentcy_ray.retrieval.embedder import EmbedderInfo, Matrix, Vectors, vectors_of
from agentcy_ray.retrieval.index_build import BuildReport, IndexBuilder
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from benchmarks.stores import Bench

DIM, BLOCK, CENTRES, SPREAD = 384, 2_000, 500, 0.4
VOCABULARY, WORDS_A_TEXT = 20_000, 40
RARE_SHARE = 0.01
"""Share of the chunks with the label ``Rare``."""

_ONSETS, _VOWELS, _CODAS = "bcdfghjklmnprstvwz", "aeiou", ("", "n", "r", "s", "t", "l")

Block = tuple[pa.RecordBatch, Vectors]


@dataclass
class Corpus:
    """What blocks are drawn from; the same seed gives the same blocks."""

    seed: int = 7
    vectors: list[Matrix] = field(default_factory=list[Matrix])
    """All vectors that were drawn, block by block, where ``keep`` is set."""
    keep: bool = False

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._centres = self._rng.standard_normal((CENTRES, DIM), dtype=np.float32)
        self._words = pa.array([_word(self._rng) for _ in range(VOCABULARY)])
        weight = 1 / (np.arange(VOCABULARY) + 10)
        self._odds = np.cumsum(weight) / weight.sum()
        self._source = new_id().hex
        self._at = datetime.now(UTC)

    def points(self, count: int) -> Matrix:
        """Vectors of unit length, shape (count, DIM)."""
        near = self._centres[self._rng.integers(CENTRES, size=count)]
        found = near + SPREAD * self._rng.standard_normal((count, DIM), dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def texts(self, count: int, words: int) -> list[str]:
        """Texts of so many words each; a few words are frequent, most are rare."""
        return self._texts(count, words).to_pylist()

    def blocks(self, count: int) -> Iterator[Block]:
        """``count`` chunks in blocks; node ``n_<i>`` is the i-th."""
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            matrix = self.points(size)
            if self.keep:
                self.vectors.append(matrix)
            yield self._chunks(start, size), vectors_of(matrix)

    def _texts(self, count: int, words: int) -> pa.Array:
        drawn = np.searchsorted(self._odds, self._rng.random((words, count)))
        columns = [self._words.take(pa.array(column)) for column in drawn]
        return pc.binary_join_element_wise(*columns, " ")

    def _chunks(self, start: int, size: int) -> pa.RecordBatch:
        nodes = [f"n_{i}" for i in range(start, start + size)]
        keys = self._rng.bytes(16 * size).hex()
        rare = self._rng.random(size) < RARE_SHARE
        names = [f"file_{i}.py" for i in range(start, start + size)]

        def same(value: Any) -> list[Any]:
            return [value] * size

        columns: dict[str, Any] = {
            "chunk_key": [keys[i : i + 32] for i in range(0, 32 * size, 32)],
            "node_id": nodes,
            "realm": same("development"),
            "labels": [["Rare"] if one else ["File"] for one in rare],
            "source_id": same(self._source),
            "name": names,
            "text": self._texts(size, WORDS_A_TEXT),
            "url": same(None),
            "properties": same('{"path": "src"}'),
            "connector": same("git"),
            "external_id": names,
            "seen_at": same(self._at),
        }
        return pa.RecordBatch.from_arrays(
            [
                columns[f.name].cast(f.type)
                if isinstance(columns[f.name], pa.Array)
                else pa.array(columns[f.name], f.type)
                for f in CHUNKS
            ],
            schema=CHUNKS,
        )


class GivenEmbedder:
    """An embedder that answers with vectors made before, at no cost."""

    def __init__(self, vectors: dict[str, Matrix]) -> None:
        self.info = EmbedderInfo("local:given", f"given/{DIM}", DIM, 512)
        self._vectors = vectors

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors of these texts."""
        return vectors_of(np.stack([self._vectors[text] for text in texts]))


async def filled_space(
    bench: Bench, spaces: SpaceStore, info: EmbedderInfo, corpus: Corpus, count: int
) -> tuple[Space, BuildReport]:
    """A space that is loaded in bulk, then indexed."""
    org_id = bench.owner.org_id
    space = await spaces.create(org_id, info)
    for chunks, vectors in corpus.blocks(count):
        async with bench.db.tenant(org_id) as connection:
            await copy_chunks(connection, space, chunks, vectors)
    report = await IndexBuilder(bench.db, spaces, bench.settings).build(space)
    return space, report


def quantile(values: Sequence[float], share: float) -> float:
    """The ``share`` quantile, 0.99 for p99."""
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def _word(rng: np.random.Generator) -> str:
    """Two to four syllables; so its trigrams are about as common as those of a language."""
    return "".join(
        _ONSETS[rng.integers(len(_ONSETS))]
        + _VOWELS[rng.integers(len(_VOWELS))]
        + _CODAS[rng.integers(len(_CODAS))]
        for _ in range(rng.integers(2, 5))
    )
