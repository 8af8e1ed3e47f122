"""``graph_walk``: the 3-hop neighbourhood of a node, on both engines, and how it grows.

Each node has five outgoing edges to nodes chosen at random; a walk follows both directions and is
cut at 2,000 nodes, as the API cuts it. Sizes by ``NODES``; the graph is loaded through the engine,
as a first publish does.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from agentcy_ray.context.engine import ContextEngine, Scope
from agentcy_ray.core.batches import EDGES
from agentcy_ray.core.batches import NODES as NODE_SCHEMA
from benchmarks.figures import Figure, absolute
from benchmarks.kyma_process import running_kyma
from benchmarks.stores import fresh_stores

NODES, DEGREE, BATCH, WALKS, LIMIT = (100_000, 1_000_000), 5, 20_000, 15, 2_000
SOURCE = UUID(int=7)


async def run() -> list[Figure]:
    """Both engines at each size, smallest first."""
    figures: list[Figure] = []
    for size in NODES:
        async with running_kyma(in_flight=2) as kyma:
            figures += await _measured("advanced", kyma.engine, kyma.org_id, size)
        async with fresh_stores() as bench:
            figures += await _measured("basic", bench.engine, bench.owner.org_id, size)
    return figures


async def _measured(name: str, engine: ContextEngine, org_id: UUID, size: int) -> list[Figure]:
    began = time.perf_counter()
    await _load(name, engine, org_id, size)
    loaded = size * (1 + DEGREE) / (time.perf_counter() - began)
    chosen = random.Random(size)
    scope, millis = Scope(org_id=org_id), list[float]()
    for _ in range(WALKS):
        began = time.perf_counter()
        found = await engine.neighbors(scope, _id(chosen.randrange(size)), depth=3, limit=LIMIT)
        millis.append(1000 * (time.perf_counter() - began))
        if not LIMIT / 10 <= len(found.nodes) <= LIMIT:
            raise RuntimeError(f"a walk found {len(found.nodes)} nodes")
    label = f"{name}_{size // 1000}k"
    print(f"{label}: p50 {statistics.median(millis):,.0f} ms", flush=True)
    return [
        absolute(f"graph_load_{label}", "rows/s", [loaded]),
        absolute(f"graph_walk_{label}", "ms", millis),
    ]


async def _load(name: str, engine: ContextEngine, org_id: UUID, size: int) -> None:
    at = datetime.now(UTC)
    with Progress(transient=True) as progress:
        task = progress.add_task(f"{name}, {size:,} nodes", total=size * (1 + DEGREE))
        for batch in _nodes(size):
            await engine.upsert_nodes(org_id, batch, at, fresh=True)
            progress.advance(task, batch.num_rows)
        for batch in _edges(size):
            await engine.upsert_edges(org_id, batch, at, fresh=True)
            progress.advance(task, batch.num_rows)


def _nodes(size: int) -> Iterator[pa.RecordBatch]:
    for first in range(0, size, BATCH):
        numbers = range(first, min(first + BATCH, size))
        yield _batch(NODE_SCHEMA, len(numbers), {
            "id": [_id(n) for n in numbers],
            "labels": [["Service"]] * len(numbers),
            "name": [f"service {n}" for n in numbers],
            "external_id": [str(n) for n in numbers],
            "connector": ["bench"] * len(numbers),
        })  # fmt: skip


def _edges(size: int) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(size)
    for first in range(0, size * DEGREE, BATCH):
        numbers = range(first, min(first + BATCH, size * DEGREE))
        ends = rng.integers(size, size=len(numbers)).tolist()
        yield _batch(EDGES, len(numbers), {
            "id": [f"e_{n}" for n in numbers],
            "src": [_id(n // DEGREE) for n in numbers],
            "dst": [_id(end) for end in ends],
            "type": ["DEPENDS_ON"] * len(numbers),
        })  # fmt: skip


def _batch(schema: pa.Schema, rows: int, columns: dict[str, list[object]]) -> pa.RecordBatch:
    same = {
        "realm": "default", "properties": "{}", "source_id": SOURCE.hex, "content_hash": "0" * 32,
    }  # fmt: skip
    arrays = [pa.array(columns.get(f.name) or [same[f.name]] * rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _id(number: int) -> str:
    return f"n_{number}"
