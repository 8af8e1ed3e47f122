"""The gate of a swap: figures that say whether the new space may answer.

Three things are looked at: whether the new space shows what the former does (``coverage``), whether
its index finds what an exact search finds (recall@10), and whether both answer alike to queries
that people ask. Two models never answer quite alike, so the floor of the last is low: it is there
to catch a space that was filled by the wrong texts or the wrong model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.errors import InvalidError
from agentcy_ray.ingest.swap.coverage import Mender
from agentcy_ray.ingest.swap.records import Coverage, Gate, Overlap, Recalled, SwapOptions
from agentcy_ray.retrieval.queries import MAX_QUERY_CHARS, HybridQuery
from agentcy_ray.retrieval.recall import recall_at

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.retrieval.query_sample import QuerySample
    from agentcy_ray.retrieval.search import SearchService
    from agentcy_ray.retrieval.spaces import Space, SpaceStore
    from agentcy_ray.retrieval.vector_backends import VectorBackends
    from agentcy_ray.stores.postgres import Database

TOP_K = 10
ASKED = 200
"""Queries of people that are asked again, at most."""
AT_LEAST = 50
"""With fewer of them, names of entities are asked too."""
AT_ONCE = 2
"""Queries at a time: a check is not to be felt."""

# Keys are hashes, so their order is that of a shuffle, and the same ones are asked each time.
_NAMES = """
SELECT name FROM (SELECT name, min(chunk_key) AS first FROM (
    SELECT name, chunk_key FROM live.{table} WHERE name <> '' ORDER BY chunk_key LIMIT 2000) n
  GROUP BY name) m ORDER BY first LIMIT $1
"""


class Measure(Protocol):
    """Compares the index of a space with an exact search in it."""

    async def recall(self, space: Space) -> Mapping[str, Any]:
        """``{mean, worst, ef_search, sampled}`` of recall@10 over 200 sampled vectors."""
        ...


@dataclass(frozen=True)
class IndexMeasure:
    """The measure of spaces of every backend; the figures are kept with the space too."""

    db: Database
    spaces: SpaceStore
    settings: Settings
    backends: VectorBackends | None = None

    async def recall(self, space: Space) -> Mapping[str, Any]:
        """See ``Measure``."""
        found = await recall_at(self.db, self.spaces, self.settings, space, backends=self.backends)
        return found.record()


@dataclass(frozen=True)
class GateCheck:
    """Takes the figures. ``search`` is one that keeps no sample of what the check asks."""

    db: Database
    spaces: SpaceStore
    search: SearchService
    sample: QuerySample
    measure: Measure
    settings: Settings
    clock: Clock = field(default_factory=SystemClock)

    async def run(self, mender: Mender, old: Space, new: Space, options: SwapOptions) -> Gate:
        """Mend what differs, then measure.

        Raises:
            CancelledByRequestError: a cancel was asked for.
            EmbedderUnavailableError, StoreUnavailableError, QueryTimeoutError: try again.
        """
        coverage = await mender.run(old, new)
        mender.check()
        found = await self.measure.recall(new)
        floor = _chosen(options.min_recall, self.settings.embedding_min_recall)
        recalled = Recalled(
            mean=found["mean"],
            worst=found["worst"],
            ef_search=found["ef_search"],
            sampled=found["sampled"],
            floor=floor,
        )
        overlap = await self._overlap(
            mender, old, new, _chosen(options.min_overlap, self.settings.embedding_min_overlap)
        )
        return Gate(
            recall=recalled,
            overlap=overlap,
            coverage=coverage,
            refused=tuple(_against(recalled, overlap, coverage)),
            at=self.clock.now(),
        )

    async def _overlap(self, mender: Mender, old: Space, new: Space, floor: float) -> Overlap:
        asked = list(await self.sample.read(old.org_id, ASKED))
        made: list[str] = []
        if len(asked) < AT_LEAST:
            made = await self._names(old, AT_LEAST - len(asked))
        queries, shares, emptied = [*asked, *made], list[float](), 0
        for start in range(0, len(queries), AT_ONCE):
            mender.check()
            some = queries[start : start + AT_ONCE]
            for mine, theirs in await asyncio.gather(
                *(self._both(query, old, new) for query in some)
            ):
                if mine:
                    shares.append(len(mine & theirs) / len(mine))
                    emptied += not theirs
        return Overlap(
            mean=sum(shares) / len(shares) if shares else 1.0,
            worst=min(shares, default=1.0),
            asked=len(asked),
            made=len(made),
            emptied=emptied,
            floor=floor,
        )

    async def _both(self, query: str, old: Space, new: Space) -> tuple[set[str], set[str]]:
        former, later = await asyncio.gather(self._hits(query, old), self._hits(query, new))
        return former, later

    async def _hits(self, query: str, space: Space) -> set[str]:
        asked = HybridQuery(query=query[:MAX_QUERY_CHARS], top_k=TOP_K, space=space.id)
        try:
            found = await self.search.hybrid(space.org_id, None, asked)
        except InvalidError:  # a name of blanks
            return set()
        return {hit.node_id for hit in found.hits}

    async def _names(self, space: Space, wanted: int) -> list[str]:
        async with self.db.tenant(space.org_id) as connection:
            rows = await connection.fetch(_NAMES.format(table=space.table_name), wanted)
        return [row["name"] for row in rows]


def _against(recall: Recalled, overlap: Overlap, coverage: Coverage) -> Sequence[str]:
    """What speaks against the new space, as sentences."""
    reasons: list[str] = []
    if coverage.missing:
        what = "texts that its model refuses" if coverage.by == "chunks" else "nodes"
        reasons.append(f"the new space lacks {coverage.missing:,} {what} of the former one")
    if recall.mean < recall.floor:
        reasons.append(
            f"recall@{TOP_K} is {recall.mean:.3f}, below {recall.floor:g}; a higher HNSW_EF_SEARCH "
            "raises it"
        )
    if overlap.emptied:
        reasons.append(f"{overlap.emptied} queries have hits in the former space and none in it")
    if overlap.mean < overlap.floor:
        reasons.append(
            f"both spaces have {overlap.mean:.3f} of their hits in common, below {overlap.floor:g}"
        )
    return reasons


def _chosen(wanted: float | None, otherwise: float) -> float:
    return otherwise if wanted is None else wanted
