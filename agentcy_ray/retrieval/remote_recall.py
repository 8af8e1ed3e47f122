"""Recall of an index in another store: its answers against all vectors of the space, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.queries import Filters
from agentcy_ray.retrieval.space import Space
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.retrieval.vector_store import Vector, VectorStore, criteria, similarities
from agentcy_ray.stores.postgres import Database

PAGE = 2_000
"""Vectors that are held at a time."""

# The same rows ask as in a table with vectors.
_SAMPLE = """
SELECT chunk_key FROM live.{table} ORDER BY hashtextextended(chunk_key, 7) LIMIT $1
"""
_KEYS = f"""
SELECT chunk_key FROM live.{{table}} WHERE chunk_key > $1 ORDER BY chunk_key LIMIT {PAGE}
"""


async def remote_shares(
    db: Database,
    settings: Settings,
    space: Space,
    k: int,
    sample: int,
    backends: VectorBackends | None,
) -> list[float]:
    """Of each sampled chunk, the share of its true neighbours that the store finds.

    Reads every vector of the space once: no store can be relied on for an exact answer.

    Raises:
        ConfigError, StoreUnavailableError: the store cannot be asked.
    """
    used = backends or VectorBackends(settings)
    try:
        return await _shares(db, used.of(space.backend), space, k, sample)
    finally:
        if backends is None:
            await used.close()


async def _shares(
    db: Database, store: VectorStore, space: Space, k: int, sample: int
) -> list[float]:
    asking = await store.fetch(space, await _keys(db, space, _SAMPLE, sample))
    edges: dict[str, np.ndarray[Any, Any]] = {key: np.empty(0) for key in asking}
    after = ""
    while keys := await _keys(db, space, _KEYS, after):
        after = keys[-1]
        page = await store.fetch(space, keys)
        for key, vector in asking.items():
            edges[key] = _best(space, key, vector, page, edges[key], k)
    shares: list[float] = []
    live = criteria(None, Filters(), ())
    for key, vector in asking.items():
        if not len(edges[key]):
            continue
        found = [near[0] for near in await store.nearest(space, vector, live, k + 1)]
        others = [each for each in found if each != key][:k]
        # Measured again from the vectors, for a store rounds its scores as it likes.
        near = similarities(space.distance, vector, await store.fetch(space, others))
        enough = sum(value >= edges[key][-1] - 1e-5 for value in near.values())
        shares.append(float(enough) / len(edges[key]))
    return shares


def _best(
    space: Space,
    key: str,
    vector: Vector,
    page: Mapping[str, Vector],
    sofar: np.ndarray[Any, Any],
    k: int,
) -> np.ndarray[Any, Any]:
    """The ``k`` highest similarities of what was seen, highest first."""
    near = similarities(space.distance, vector, {k: v for k, v in page.items() if k != key})
    return np.sort(np.concatenate([sofar, list(near.values())]))[::-1][:k]


async def _keys(db: Database, space: Space, sql: str, value: Any) -> Sequence[str]:
    async with db.tenant(space.org_id) as connection:
        rows = await connection.fetch(sql.format(table=space.table_name), value)
    return [row[0] for row in rows]
