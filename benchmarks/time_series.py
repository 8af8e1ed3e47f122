"""``time_series``: a summary of 90 days of events by hour and label, asked in KQL.

Subject: ``ContextEngine.query`` on the embedded Advanced engine, from the text to the rows.
Control: DataFusion itself in this process, over the same Parquet files, with the SQL that a person
would write for it, and no network.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
from datafusion import SessionConfig, SessionContext
from rich.progress import track

from agentcy_ray.context.engine import Query, Scope
from agentcy_ray.core.batches import EVENTS
from benchmarks.figures import Figure, absolute, alternate, compared
from benchmarks.kyma_process import Kyma, running_kyma

EVENTS_STORED, BATCH, DAYS, ROUNDS = 10_000_000, 100_000, 100, 5
LABELS = ("deploy", "incident", "log", "tool_call")
QUESTION = """
context_events | where at > ago(90d) | summarize n = count() by bin(at, 1h), label
"""
BARE = """
SELECT date_bin(INTERVAL '1 hour', "at") AS hour, label, count(*) AS n FROM events
WHERE "at" > now() - INTERVAL '90 days' GROUP BY 1, 2
"""


async def run() -> list[Figure]:
    """Fill, then both in turns."""
    async with running_kyma() as kyma:
        began = time.perf_counter()
        for batch in track(list(_spans()), description="events", transient=True):
            await kyma.engine.append_events(kyma.org_id, _events(*batch))
        filled = EVENTS_STORED / (time.perf_counter() - began)
        await _merged(kyma)  # small extents are merged while events come; then the files stay
        bare = _bare(kyma)
        ours, theirs = await alternate(lambda: _asked(kyma), lambda: _collected(bare), ROUNDS)
    return [
        absolute("events_appended", "events/s", [filled]),
        compared("time_series", "ms", "DataFusion on the files", ours, theirs, at_most=1.3),
    ]


async def _merged(kyma: Kyma) -> None:
    async with httpx2.AsyncClient(timeout=600) as http:
        left = 1
        while left:
            answer = await http.post(f"{kyma.http_url}/v1/admin/compact", json={"wait": True})
            left = answer.raise_for_status().json()["extents_queued"]


async def _asked(kyma: Kyma) -> float:
    query = Query(language="kql", text=QUESTION, limit=10_000)
    began = time.perf_counter()
    answer = await kyma.engine.query(Scope(org_id=kyma.org_id), query)
    took = 1000 * (time.perf_counter() - began)
    _check(len(answer.rows), sum(row[-1] for row in answer.rows))
    return took


async def _collected(context: SessionContext) -> float:
    began = time.perf_counter()
    batches = await asyncio.to_thread(lambda: context.sql(BARE).collect())
    took = 1000 * (time.perf_counter() - began)
    rows = pa.Table.from_batches(batches)
    _check(rows.num_rows, sum(rows["n"].to_pylist()))
    return took


def _check(rows: int, events: int) -> None:
    expected = EVENTS_STORED * 90 / DAYS
    if not 90 * 24 * len(LABELS) <= rows <= (90 * 24 + 1) * len(LABELS):
        raise RuntimeError(f"a summary of {rows:,} rows is not one by hour and label")
    if abs(events - expected) > expected / 50:
        raise RuntimeError(f"the summary counts {events:,} events of {expected:,.0f}")


def _bare(kyma: Kyma) -> SessionContext:
    config = SessionConfig().with_target_partitions(os.cpu_count() or 1)
    context = SessionContext(
        config.set("datafusion.execution.listing_table_ignore_subdirectory", "false")
    )
    folder = max((kyma.data / "tables").iterdir(), key=_bytes)  # the others have one row each
    context.register_parquet(
        "events", f"{folder}/", table_partition_cols=[("__extent", pa.int64())]
    )
    return context


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet"))


def _spans() -> Iterator[tuple[int, datetime, timedelta]]:
    """Batches: (first number, start, length); events come in the order of their time."""
    length = timedelta(days=DAYS) / (EVENTS_STORED // BATCH)
    start = datetime.now(UTC) - timedelta(days=DAYS)
    for number in range(EVENTS_STORED // BATCH):
        yield number * BATCH, start + number * length, length


def _events(first: int, start: datetime, length: timedelta) -> pa.RecordBatch:
    rng = np.random.default_rng(first)
    micros = np.sort(rng.integers(0, length // timedelta(microseconds=1), BATCH))
    at = pa.array(micros + int(start.timestamp() * 1e6), pa.timestamp("us", tz="UTC"))
    columns: dict[str, pa.Array] = {
        "at": at,
        "label": pa.array(np.array(LABELS)[rng.integers(len(LABELS), size=BATCH)]),
        "body": pa.array([f"event {first + number}" for number in range(BATCH)]),
        "event_id": pa.array([f"evt_{first + number}" for number in range(BATCH)]),
        "realm": pa.array(["default"] * BATCH),
    }
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else _filler(field)
        for field in EVENTS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=EVENTS)


def _filler(field: pa.Field) -> pa.Array:
    if field.nullable:
        return pa.nulls(BATCH, field.type)
    return pa.array(["{}"] * BATCH if field.name in ("props", "properties") else [""] * BATCH)
