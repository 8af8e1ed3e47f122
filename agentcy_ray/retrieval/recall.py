"""How much of the exact answer the index of a space finds, at the settings that search uses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import asyncpg

from agentcy_ray.core.errors import QueryTimeoutError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.remote_recall import remote_shares
from agentcy_ray.retrieval.space import DISTANCES, Space
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.retrieval.statements import planner_settings
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.stores.postgres import Database

GOAL = 0.95
"""Least mean recall at which a space may become active by itself."""
_PATIENCE_MS = 600_000
"""An exact answer reads the whole table; for a million rows that is a second or two."""

# Rows of the space ask for their neighbours and are no part of the answer: to be found is
# no merit. Drawn by the hash of the key, so the sample is the same for the same chunks.
_SAMPLE = """
SELECT chunk_key, embedding::text AS vector FROM live.{table}
ORDER BY hashtextextended(chunk_key, 7) LIMIT $1
"""
_NEAREST = """
SELECT chunk_key, embedding {operator} $1::text::{kind} AS distance FROM live.{table}
ORDER BY embedding {operator} $1::text::{kind} LIMIT $2
"""


@dataclass(frozen=True)
class Recall:
    """Shares of the true nearest neighbours that the index found, over a sample of queries."""

    mean: float
    worst: float
    """Of a single query."""
    ef_search: int
    """Width of the index walk at which it was measured."""
    sampled: int
    """Queries; fewer than asked for in a small space, 0 in an empty one."""
    k: int

    @property
    def enough(self) -> bool:
        """Whether search may rely on the index."""
        return self.mean >= GOAL

    def record(self) -> dict[str, Any]:
        """As it is kept with the space."""
        return asdict(self)


async def recall_at(
    db: Database,
    spaces: SpaceStore,
    settings: Settings,
    space: Space,
    *,
    k: int = 10,
    sample: int = 200,
    backends: VectorBackends | None = None,
) -> Recall:
    """Compare the index with an exact search and keep the figures with the space.

    Neighbours count by distance: one that is as near as the k-th true one is as good, since many
    chunks of an organisation are copies of each other.

    Args:
        db: where the space lies.
        spaces: keeps the result.
        settings: the width of an index walk.
        space: one that is indexed.
        k: neighbours looked for.
        sample: rows of the space that are used as queries.
        backends: have the vectors that lie elsewhere; None = those that the settings name.

    Raises:
        QueryTimeoutError: a single search took more than ten minutes.
        StoreUnavailableError: Postgres went away.
    """
    if space.remote:
        shares = await remote_shares(db, settings, space, k, sample, backends)
    else:
        shares = await _table_shares(db, spaces, settings, space, k, sample)
    recall = Recall(
        mean=round(sum(shares) / len(shares), 4) if shares else 1.0,
        worst=round(min(shares), 4) if shares else 1.0,
        ef_search=settings.hnsw_ef_search,
        sampled=len(shares),
        k=k,
    )
    await spaces.note_recall(space.org_id, space.id, recall.record())
    return recall


async def _table_shares(
    db: Database, spaces: SpaceStore, settings: Settings, space: Space, k: int, sample: int
) -> list[float]:
    version = await spaces.vector_version()
    names = {
        "table": space.table_name,
        "kind": f"{space.storage}({space.dim})",
        "operator": DISTANCES[space.distance].operator,
    }
    try:
        asked, truths, answers = await _answers(db, space, settings, version, names, k, sample)
    except asyncpg.QueryCanceledError as error:
        raise QueryTimeoutError(
            "an exact search of the space took more than ten minutes; check its recall while the "
            "server has less to do"
        ) from error
    shares: list[float] = []
    for row, truth, found in zip(asked, truths, answers, strict=True):
        share = _share(row["chunk_key"], truth, found, k)
        if share is not None:
            shares.append(share)
    return shares


async def _answers(
    db: Database,
    space: Space,
    settings: Settings,
    version: tuple[int, int],
    names: dict[str, str],
    k: int,
    sample: int,
) -> tuple[list[Any], list[Any], list[Any]]:
    """The rows that ask, their true neighbours, and those that the index finds."""
    nearest = _NEAREST.format(**names)
    found: list[list[Any]] = []
    async with db.tenant(space.org_id) as connection:
        asked = await connection.fetch(_SAMPLE.format(**names), sample)
        for exact in (True, False):
            local = planner_settings(settings, version, k + 1, exact=exact)
            await connection.fetchrow(local.sql, *local.values)
            await connection.execute(f"SET LOCAL statement_timeout = {_PATIENCE_MS}")
            found.append([await connection.fetch(nearest, row["vector"], k + 1) for row in asked])
    return asked, found[0], found[1]


def _share(key: str, truth: list[Any], found: list[Any], k: int) -> float | None:
    """Of one query; None when it has no neighbour at all."""
    true = [row["distance"] for row in truth if row["chunk_key"] != key][:k]
    if not true:
        return None
    edge = true[-1] + 1e-6
    got = [row for row in found if row["chunk_key"] != key and row["distance"] <= edge][:k]
    return len(got) / len(true)
