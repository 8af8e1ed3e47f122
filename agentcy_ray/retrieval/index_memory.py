"""How much memory and how many processes an index build asks a Postgres server for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentcy_ray.retrieval.space import Space

_MIB = 1024 * 1024
# Measured on pgvector 0.8.6: rows that went into a graph before it said that its memory was full.
_ELEMENT = 200
"""Bytes of an element of the graph and of its upper layers, without links and vector."""
_LINK = 16
"""Bytes of one link in memory."""
_SLACK = 1.1


@dataclass(frozen=True)
class Resources:
    """What a build is given."""

    memory: int
    """``maintenance_work_mem`` in bytes."""
    workers: int
    """``max_parallel_maintenance_workers``."""
    need: int
    """Bytes of the whole graph of vectors; a build that has less goes on much slower on disk."""
    own: int
    """The server's own ``maintenance_work_mem``."""

    def least(self) -> Resources:
        """What is left when the server had no room: its own memory, in one process."""
        return Resources(self.own, 0, self.need, self.own)


def graph_bytes(space: Space, rows: int, m: int) -> int:
    """Memory of an HNSW graph of ``rows`` vectors with ``m`` links each, twice that at its base."""
    vector = 8 + space.dim * (2 if space.storage == "halfvec" else 4)
    return round(rows * (vector + 2 * m * _LINK + _ELEMENT) * _SLACK) + 4 * _MIB


def resources_for(need: int, server: Mapping[str, Any]) -> Resources:
    """Enough for the graph, within what the server's own settings say that it has.

    Postgres does not know the memory of its machine. Who set ``effective_cache_size`` said how much
    there is to fill, and a build may have half of that for a while; where nobody did, no more than
    ``shared_buffers``.

    Args:
        need: bytes of the graph; 0 for an index that needs no memory of its own.
        server: rows of ``pg_settings`` by name: ``value`` in bytes, ``given`` = somebody set it.
    """
    own = int(server["maintenance_work_mem"]["value"])
    cache = server["effective_cache_size"]
    most = int(cache["value"]) // 2 if cache["given"] else int(server["shared_buffers"]["value"])
    memory = min(max(need, own), max(most, own))
    return Resources(memory, int(server["max_parallel_maintenance_workers"]["value"]), need, own)
