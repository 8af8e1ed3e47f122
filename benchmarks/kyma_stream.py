"""``encode_vs_orjson`` and ``stream_vs_preencoded``: how fast nodes travel into kyma.

Encoding: rows of ``context_nodes`` as NDJSON slices, against a loop of ``orjson.dumps`` over
``to_pylist()``, on one core. Streaming: the same rows as Arrow into a new table of an embedded
engine, each batch as the writer sends it, against posting slices that were encoded beforehand,
with as many under way. ``upserted_nodes`` goes one step further back: ``NODES`` batches through
the engine, their facts and search text made on the way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

import httpx2
import orjson
import pyarrow as pa

from agentcy_ray.context.advanced.layout import node_rows
from agentcy_ray.context.kyma import KymaAddress, KymaClient
from agentcy_ray.context.kyma.encoder import slices
from agentcy_ray.core.batches import NODES
from benchmarks.figures import Figure, absolute, alternate, compared
from benchmarks.kyma_process import Kyma, running_kyma

ROWS, BATCHES, ROUNDS = 50_000, 6, 5
SLICE_BYTES, IN_FLIGHT = 8 << 20, 4
SEEN = datetime(2026, 6, 1, tzinfo=UTC)


def nodes(start: int, rows: int) -> pa.RecordBatch:
    """Nodes as a git connector yields them: five properties, 300 bytes of JSON."""
    numbers = range(start, start + rows)
    properties = [
        orjson.dumps({
            "path": f"services/billing/handlers/module_{i % 977}/file_{i}.py", "size": i % 70_000,
            "url": f"https://git.example.com/agentcy/monorepo/blob/main/file_{i}.py",
            "language": "python", "description": 'says "hello" to whoever calls; ' * 3,
        }).decode()
        for i in numbers
    ]  # fmt: skip
    return pa.record_batch(
        {
            "id": [f"n_{i:026d}" for i in numbers],
            "labels": [["File", "Code"]] * rows,
            "realm": ["development"] * rows,
            "name": [f"file_{i}.py" for i in numbers],
            "properties": properties,
            "connector": ["git"] * rows,
            "source_id": ["a" * 32] * rows,
            "external_id": [f"file:{i}" for i in numbers],
            "content_hash": [f"{i:032x}" for i in numbers],
        },
        schema=NODES,
    )


def encoded_by_arrow(rows: pa.RecordBatch) -> float:
    """Rows a second of our encoder."""
    begun = time.perf_counter()
    sizes = [len(part.body) for part in slices(rows, {}, SLICE_BYTES)]
    assert sum(sizes) > rows.num_rows
    return rows.num_rows / (time.perf_counter() - begun)


def encoded_by_orjson(rows: pa.RecordBatch) -> float:
    """Rows a second of a loop over dictionaries."""
    begun = time.perf_counter()
    body = b"\n".join([orjson.dumps(row) for row in rows.to_pylist()])
    assert len(body) > rows.num_rows
    return rows.num_rows / (time.perf_counter() - begun)


async def streamed(kyma: Kyma, batches: list[pa.RecordBatch], table: str) -> float:
    """Rows a second from Arrow to committed."""
    address = KymaAddress(kyma.http_url, "off")
    client = KymaClient.open(address, slice_bytes=SLICE_BYTES, max_in_flight=IN_FLIGHT)
    await client.ingest("bench", table, batches[0].slice(0, 1), key_scope="first")
    begun = time.perf_counter()
    await asyncio.gather(*(client.ingest("bench", table, b, key_scope="p") for b in batches))
    took = time.perf_counter() - begun
    await client.close()
    return sum(batch.num_rows for batch in batches) / took


async def posted(kyma: Kyma, bodies: list[bytes], rows: int, first: bytes, table: str) -> float:
    """Rows a second of slices that lie ready."""
    headers = {"x-database": "bench", "x-table": table, "content-type": "application/x-ndjson"}
    async with httpx2.AsyncClient(base_url=kyma.http_url, headers=headers, timeout=60) as client:

        async def post(body: bytes) -> None:
            answer = await client.post(
                "/v1/ingest", content=body, headers={"x-idempotency-key": str(uuid4())}
            )
            answer.raise_for_status()

        async def poster(waiting: Iterator[bytes]) -> None:
            for body in waiting:
                await post(body)

        await post(first)
        waiting = iter(bodies)
        begun = time.perf_counter()
        await asyncio.gather(*(poster(waiting) for _ in range(IN_FLIGHT)))
        return rows / (time.perf_counter() - begun)


async def upserted(kyma: Kyma, batches: list[pa.RecordBatch], round_: int) -> float:
    """Rows a second of ``NODES`` batches through the engine."""
    seen = SEEN + timedelta(days=round_)  # other rows than before: they are not replayed
    await kyma.engine.upsert_nodes(kyma.org_id, batches[0].slice(0, 1), seen)
    begun = time.perf_counter()
    for number, batch in enumerate(batches, 1):
        await kyma.engine.upsert_nodes(kyma.org_id, batch, seen + timedelta(seconds=number))
    return sum(batch.num_rows for batch in batches) / (time.perf_counter() - begun)


async def run() -> list[Figure]:
    made = [nodes(i * ROWS, ROWS) for i in range(BATCHES)]
    batches = [node_rows(batch, SEEN) for batch in made]
    bodies = [part.body for batch in batches for part in slices(batch, {}, SLICE_BYTES)]
    first = next(slices(batches[0].slice(0, 1), {}, SLICE_BYTES)).body

    async def ours() -> float:
        return encoded_by_arrow(batches[0])

    async def loop() -> float:
        return encoded_by_orjson(batches[0])

    encoding = await alternate(ours, loop, ROUNDS)
    async with running_kyma(SLICE_BYTES, IN_FLIGHT) as kyma:
        tables = (f"nodes_{i}" for i in count())

        async def stream() -> float:
            return await streamed(kyma, batches, next(tables))

        async def post() -> float:
            return await posted(kyma, bodies, ROWS * BATCHES, first, next(tables))

        streaming = await alternate(stream, post, ROUNDS)
        through = [await upserted(kyma, made[:2], round_) for round_ in range(3)]
    return [
        compared(
            "encode_vs_orjson", "rows/s", "orjson.dumps over to_pylist()", *encoding, at_least=3
        ),
        compared(
            "stream_vs_preencoded", "rows/s", "posting pre-encoded NDJSON", *streaming,
            at_least=0.85,
        ),
        absolute("upserted_nodes", "rows/s", through),
    ]  # fmt: skip
