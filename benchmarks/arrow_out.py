"""``api_vs_do_get``: a large answer as Arrow through our API, against Flight itself.

Subject: ``POST /api/v1/context/query`` with ``Accept: application/vnd.apache.arrow.stream``, every
middleware and a real log-in in front, the API in a process of its own, read by ``pyarrow.ipc``.
Control: ``do_get`` of the same SQL at the same engine, read by ``pyarrow.flight``.
Both end with every batch in this process; bytes are those of the batches.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import pickle
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.flight as flight

from agentcy_ray.api.arrow_stream import MEDIA_TYPE
from agentcy_ray.api.bootstrap import first_boot
from agentcy_ray.context.advanced.planners import PLANNERS
from agentcy_ray.context.engine import Scope
from agentcy_ray.core.batches import EVENTS
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded, stop_embedded
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.secrets import resolve_secrets
from benchmarks.figures import Figure, alternate, compared
from benchmarks.kyma_process import DATABASE, Kyma, running_kyma

ROWS, BATCH, ROUNDS = 2_000_000, 50_000, 9
QUESTION = "context_events | project at, label, body, event_id, service, duration_ms"


async def run() -> list[Figure]:
    """Fill, then both in turns."""
    async with running_kyma() as kyma:
        for first in range(0, ROWS, BATCH):
            await kyma.engine.append_events(kyma.org_id, _events(first))
        async with _api(kyma) as (url, token):
            planned = PLANNERS["kql"](
                QUESTION, {}, Scope(org_id=kyma.org_id), row_limit=ROWS, include_archived=False
            )
            door = flight.connect(kyma.flight_url)
            for _ in range(2):  # grammar, connections and caches of both are warm from here on
                await asyncio.to_thread(_got, door, planned.sql)
                await asyncio.to_thread(_posted, url, token)
            ours, theirs = await alternate(
                lambda: asyncio.to_thread(_posted, url, token),
                lambda: asyncio.to_thread(_got, door, planned.sql),
                ROUNDS,
            )
            door.close()
    return [compared("api_vs_do_get", "MB/s", "bare do_get", ours, theirs, at_least=0.8)]


def _posted(url: str, token: str) -> float:
    body = orjson.dumps({"language": "kql", "query": QUESTION, "limit": ROWS})
    headers = {
        "authorization": f"Bearer {token}", "accept": MEDIA_TYPE,
        "content-type": "application/json",
    }  # fmt: skip
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    began = time.perf_counter()
    connection.request("POST", "/api/v1/context/query", body, headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"the API answers {answer.status}: {answer.read()[:500]!r}")
    with pa.ipc.open_stream(answer) as reader:
        rate = _read(reader, began)
    connection.close()
    return rate


def _got(door: flight.FlightClient, sql: str) -> float:
    ticket = orjson.dumps({"database": DATABASE, "query": sql, "language": "sql"})
    began = time.perf_counter()
    return _read(door.do_get(flight.Ticket(ticket)).to_reader(), began)


def _read(reader: pa.RecordBatchReader, began: float) -> float:
    rows = size = 0
    for batch in reader:
        rows += batch.num_rows
        size += batch.nbytes
    if rows != ROWS:
        raise RuntimeError(f"{rows:,} rows came instead of {ROWS:,}")
    return size / (time.perf_counter() - began) / 1e6


@asynccontextmanager
async def _api(kyma: Kyma) -> AsyncGenerator[tuple[str, str]]:
    """The API over fresh stores and this kyma; its URL and the owner's token."""
    with tempfile.TemporaryDirectory(prefix="agb-") as name:
        settings = Settings.load(
            {}, agentcy_state_dir=Path(name) / "s", context_engine="advanced",
            kyma_base_url=kyma.http_url, kyma_flight_url=kyma.flight_url,
        )  # fmt: skip
        stores = await ensure_embedded(
            settings, frozenset({"postgres", "redis"}), until_exit_of=os.getpid()
        )
        endpoints = replace(stores, kyma_url=kyma.http_url, kyma_flight_url=kyma.flight_url)
        try:
            password = resolve_secrets(settings).admin_password
            await migrate(endpoints.database_url)
            db = await open_database(endpoints.database_url, pool_max=2)
            await first_boot(db, settings, password)
            await db.close()
            given = Path(name) / "given.pickle"
            given.write_bytes(pickle.dumps((settings, endpoints)))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.arrow_api", str(given),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                assert process.stdout is not None
                url = (await process.stdout.readline()).decode().strip()
                yield url, await _log_in(url, settings.admin_email, password)
            finally:
                process.terminate()
                await process.wait()
        finally:
            await stop_embedded(settings)


async def _log_in(url: str, email: str, password: str) -> str:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        answer = await client.post(
            "/api/v1/auth/login", json={"email": email, "password": password}
        )
        return str(answer.raise_for_status().json()["token"])


def _events(first: int) -> pa.RecordBatch:
    rng = np.random.default_rng(first)
    start = int(datetime.now(UTC).timestamp() * 1e6) - ROWS
    rows = range(first, first + BATCH)
    columns: dict[str, pa.Array] = {
        "at": pa.array(np.arange(first, first + BATCH) + start, pa.timestamp("us", tz="UTC")),
        "label": pa.array(np.array(["span", "log", "metric"])[rng.integers(3, size=BATCH)]),
        "body": pa.array([f"request {number} was answered by the shop" for number in rows]),
        "event_id": pa.array([f"{number:032x}" for number in rows]),
        "service": pa.array(np.array(["shop", "cart", "mail"])[rng.integers(3, size=BATCH)]),
        "duration_ms": pa.array(rng.random(BATCH) * 100),
        "properties": pa.array(["{}"] * BATCH),
        "realm": pa.array(["default"] * BATCH),
        "pipeline_id": pa.array(["0" * 32] * BATCH),
    }
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns
        else pa.nulls(BATCH, field.type)
        for field in EVENTS
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=EVENTS)
