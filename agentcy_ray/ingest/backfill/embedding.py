"""Vectors for the chunks of a block, whatever single texts the model refuses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
import pyarrow as pa

from agentcy_ray.core.errors import AgentcyError, EmbedderRefusedError, InvalidError
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.backfill.budget import BlockBudget
from agentcy_ray.ingest.backfill.pace import Pace
from agentcy_ray.ingest.backfill.rows import RowError
from agentcy_ray.ingest.backfill.sink import NO_USAGE, Embedded, Wanted
from agentcy_ray.retrieval.embedder import EmbedUsage, matrix_of, no_vectors, vectors_of

if TYPE_CHECKING:
    from agentcy_ray.retrieval.embedder import Matrix, MeteredEmbedder

GROUP_TEXTS = 512
"""Texts of one call, by length sorted over the block before: what a call that is cut off loses."""
REFUSED_ROWS = 64
"""After so many texts of a block refused and none taken, the model is asked for ``HARMLESS``: what
it refuses with that is no fault of the texts."""
HARMLESS = "a text that every model takes"
TOKENS_PER_CHAR = 0.3
"""Until the model has said how many it read."""


@dataclass
class _Result:
    """What came of the texts of a block so far."""

    matrix: Matrix
    usage: EmbedUsage = NO_USAGE
    taken: int = 0
    refused: dict[int, AgentcyError] = field(default_factory=lambda: dict[int, AgentcyError]())


@dataclass
class BlockEmbedder:
    """Embeds blocks; made once for a backfill."""

    embedder: MeteredEmbedder
    dim: int
    pace: Pace
    budget: BlockBudget | None = None
    """None where nobody keeps any."""
    _ratio: float = TOKENS_PER_CHAR

    async def embed(self, wanted: Wanted) -> Embedded:
        """Vectors of what a block needs; texts that are refused are named beside them.

        Raises:
            EmbedderUnavailableError: the model is away; the block is not lost.
            EmbedderRefusedError: the model refuses us, or every text.
            InvalidError: the vectors are not as long as the space's.
            BudgetExceededError: a hard limit does not allow the block.
        """
        chunks = wanted.chunks()
        if not chunks.num_rows:
            return Embedded(wanted, chunks, no_vectors(self.dim))
        texts: list[str] = chunks["text"].to_pylist()
        lengths = pc.utf8_length(chunks["text"]).to_numpy(zero_copy_only=False)
        longest_first = np.argsort(lengths, kind="stable")[::-1]
        result = _Result(np.empty((len(texts), self.dim), dtype=np.float32))
        budget = self.budget
        held = await budget.hold(int(lengths.sum()) * self._ratio) if budget else None
        try:
            for start in range(0, len(texts), GROUP_TEXTS):
                places: list[int] = longest_first[start : start + GROUP_TEXTS].tolist()
                await self.pace.admit(len(places), int(lengths[places].sum() * self._ratio))
                began = time.monotonic()
                await self._some(texts, places, result)
                await self.pace.rest(time.monotonic() - began)
        finally:
            if budget is not None and held is not None:
                await budget.close(held, result.usage)
        if result.usage.tokens:
            self._ratio = result.usage.tokens / max(1, int(lengths.sum()))
        return _embedded(wanted, chunks, result)

    async def _some(self, texts: Sequence[str], places: list[int], result: _Result) -> None:
        """Embed some texts; those that are refused are found by halving."""
        try:
            made = await self.embedder.embed_metered([texts[i] for i in places])
        except EmbedderRefusedError as error:
            if not error.details.get("texts"):
                raise
            if len(places) == 1:
                result.refused[places[0]] = error
                if not result.taken and len(result.refused) == REFUSED_ROWS:
                    result.usage += await self._require_any(error)
                return
            half = len(places) // 2
            await self._some(texts, places[:half], result)
            await self._some(texts, places[half:], result)
            return
        matrix = matrix_of(made.vectors)
        if matrix.shape[1] != self.dim:
            raise InvalidError(
                f"{self.embedder.info.reference} makes vectors of {matrix.shape[1]} numbers and "
                f"the space holds {self.dim}; make a space for this model"
            )
        result.matrix[places] = matrix
        result.usage += made.usage
        result.taken += len(places)
        if np.isfinite(matrix).all():
            return
        for row in np.flatnonzero(~np.isfinite(matrix).all(axis=1)).tolist():
            result.refused[places[row]] = EmbedderRefusedError(
                "the model answered a vector that holds no number; mend or shorten the text",
                code="vector_invalid",
            )

    async def _require_any(self, refused: EmbedderRefusedError) -> EmbedUsage:
        """Check that the model takes anything at all.

        Raises:
            EmbedderRefusedError: it does not; what it said of the texts.
        """
        try:
            return (await self.embedder.embed_metered([HARMLESS])).usage
        except EmbedderRefusedError:
            raise refused from None


def _embedded(wanted: Wanted, chunks: pa.RecordBatch, result: _Result) -> Embedded:
    if not result.refused:
        return Embedded(wanted, chunks, vectors_of(result.matrix), (), result.usage)
    errors = tuple(
        RowError(
            chunks["chunk_key"][i].as_py(), chunks["node_id"][i].as_py(),
            UUID(chunks["source_id"][i].as_py()), error.code, error.message,
        )
        for i, error in sorted(result.refused.items())
    )  # fmt: skip
    taken = np.ones(chunks.num_rows, dtype=bool)
    taken[list(result.refused)] = False
    return Embedded(
        wanted, chunks.filter(pa.array(taken)), vectors_of(result.matrix[taken]), errors,
        result.usage,
    )  # fmt: skip
