"""``migration``: moving an organisation from Basic to Advanced, and what a ``kill -9`` costs.

A source of ``size`` nodes with three edges each is published to Basic. The migration then runs in a
process of its own, which kills itself when half of the rows have arrived and their cursor has not
been saved; a second run ends it. ``size`` by ``--size``; the default takes about two minutes.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
from pydantic import BaseModel

from agentcy_ray.connectors.base import (
    Batch,
    Checkpoint,
    ConnectorSpec,
    Cursors,
    ExtractItem,
    Mode,
)
from agentcy_ray.context.advanced.arriving import Arriving
from agentcy_ray.context.engine import EntityKind
from agentcy_ray.context.migration.entities import Entities
from agentcy_ray.context.migration.opening import open_router
from agentcy_ray.context.migration.records import Migration
from agentcy_ray.context.migration.router import EngineRouter
from agentcy_ray.context.migration.store import Migrations
from agentcy_ray.core.batches import SOURCE_EDGES, SOURCE_NODES
from agentcy_ray.core.ids import new_id
from agentcy_ray.ingest.extract import OpenedSource
from agentcy_ray.ingest.migration.requests import MigrationRequests
from agentcy_ray.ingest.migration.runner import MigrationRunner
from agentcy_ray.ingest.runner import SyncRunner
from agentcy_ray.ingest.syncs import SyncRuns
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.embedded import ensure_embedded
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database
from benchmarks.figures import Figure, absolute
from benchmarks.ingest_publish import stores_without_vectors
from benchmarks.stores import Bench, fresh_stores

SIZE, DEGREE, BATCH, REALM = 40_000, 3, 10_000, "development"
REPEATED = 0.02


class Generated:
    """A session to a source of ``size`` nodes, made on the way."""

    def __init__(self, size: int) -> None:
        self._size = size

    async def check(self) -> None:
        """Nothing to reach."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """It has no tools."""
        raise NotImplementedError(tool)

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        """All nodes, then all edges."""
        yield Mode(True)
        for first in range(0, self._size, BATCH):
            numbers = range(first, min(first + BATCH, self._size))
            yield Batch("nodes", await asyncio.to_thread(_nodes, numbers))
            yield Batch("edges", await asyncio.to_thread(_edges, numbers, self._size))
        yield Checkpoint("all", {"size": self._size})


class Counted(Arriving):
    """Counts the rows that arrive, and may be the end of its process."""

    rows = 0
    ends_at: int | None = None
    note: Path | None = None

    async def adopt(
        self, org_id: UUID, kind: EntityKind, entities: Entities, *, over_all: bool = False
    ) -> int:
        """Write entities; see ``Arriving``."""
        written = await super().adopt(org_id, kind, entities, over_all=over_all)
        self.rows += entities.rows.num_rows
        if self.note is not None and self.ends_at is not None and self.rows >= self.ends_at:
            self.note.write_text(str(self.rows))
            os.kill(os.getpid(), signal.SIGKILL)
        return written


@dataclass(frozen=True)
class Place:
    """A migration and the stores that it is carried out on."""

    bench: Bench
    router: EngineRouter
    migration: Migration
    total: int


async def run(size: int = SIZE) -> list[Figure]:
    """Rates of a run that is killed half-way and of the one that ends it."""
    async with published(size) as place:
        sent, killed_secs = await _killed(place)
        left = await Migrations(place.bench.db).get(place.migration.org_id, place.migration.id)
        moments: dict[str, float] = {}
        counted = Counted(place.router.engines.advanced.store)  # pyright: ignore
        router = _with(place.router, counted, place.bench)
        began = time.perf_counter()
        await _runner(place.bench, router, moments).run(
            left.org_id, left.id, Beat(2)
        )  # fmt: skip
        secs = time.perf_counter() - began
        done = await Migrations(place.bench.db).get(left.org_id, left.id)
        if done.status != "done" or not done.checksums["same"]:
            raise RuntimeError(f"the migration is {done.status}: {done.error}")
        repeated = (sent + counted.rows - place.total) / place.total
        compare = moments["compared"] - moments["backfilled"]
        print(
            f"{place.total:,} entities: first run {killed_secs:.1f} s for {sent:,}, second "
            f"{secs:.1f} s for {counted.rows:,}; comparing {compare:.1f} s", flush=True,
        )  # fmt: skip
        return [
            absolute("migration_rows", "rows/s", [place.total / (killed_secs + secs)]),
            absolute("migration_backfill", "rows/s", [sent / killed_secs]),
            absolute("migration_compare", "rows/s", [place.total / compare]),
            absolute("migration_repeated", "of all rows", [repeated], at_most=REPEATED),
        ]


@asynccontextmanager
async def published(size: int) -> AsyncGenerator[Place]:
    """An organisation on Basic with one source, and a planned migration."""
    async with fresh_stores() as bench:
        settings = bench.settings
        kyma = await ensure_embedded(settings, frozenset({"kyma"}), until_exit_of=os.getpid())
        both = replace(
            bench.endpoints, kyma_url=kyma.kyma_url, kyma_flight_url=kyma.kyma_flight_url,
            kyma_token=kyma.kyma_token,
        )  # fmt: skip
        bench = replace(bench, endpoints=both)
        await _publish(bench, size)
        router = open_router(settings, both, bench.db)
        try:
            queue = PostgresQueue(settings, bench.db)
            asked = await MigrationRequests(bench.db, queue, both=True).start(bench.owner)
            yield Place(bench, router, asked.migration, size * (1 + DEGREE))
        finally:
            await router.close()


async def _publish(bench: Bench, size: int) -> None:
    settings, db, source_id = bench.settings, bench.db, new_id()
    async with db.tenant(bench.owner.org_id) as connection:
        await connection.execute(
            "INSERT INTO sources (id, org_id, name, connector, realm, status)"
            " VALUES ($1, $2, 'generated', 'generated', $3, 'ready')",
            source_id, bench.owner.org_id, REALM,
        )  # fmt: skip

    @asynccontextmanager
    async def opened(org_id: UUID, source_id: UUID) -> AsyncGenerator[OpenedSource]:
        spec = ConnectorSpec(
            name="generated", title="Generated", description="Numbers", version="1",
            config_model=BaseModel, default_realm=REALM, incremental=False,
            reports_deletions=False,
        )  # fmt: skip
        yield OpenedSource(spec, REALM, Generated(size))

    stores = stores_without_vectors(bench.engine, SpaceStore(db, settings))
    syncs = SyncRuns(db, PostgresQueue(settings, db))
    asked = await syncs.request(bench.owner, source_id)
    began = time.perf_counter()
    await SyncRunner(db, open_objects(settings), stores, opened, settings).run(
        bench.owner.org_id, asked.id, "benchmark", Beat(1)
    )
    done = await syncs.get(bench.owner.org_id, asked.id)
    if done.status != "synced":
        raise RuntimeError(f"the sync is {done.status}: {done.error}")
    print(f"published {size:,} nodes in {time.perf_counter() - began:.1f} s", flush=True)


async def _killed(place: Place) -> tuple[int, float]:
    """Rows that a process sent before it killed itself half-way, and how long that took."""
    note, given = place.bench.folder / "sent", place.bench.folder / "given.pickle"
    told = {
        "settings": place.bench.settings,
        "endpoints": place.bench.endpoints,
        "org_id": place.migration.org_id,
        "migration_id": place.migration.id,
        "ends_at": place.total // 2,
        "note": note,
    }
    await asyncio.to_thread(given.write_bytes, pickle.dumps(told))
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.migration", str(given)
    )
    status = await process.wait()
    secs = time.perf_counter() - began
    if status != -signal.SIGKILL:
        raise RuntimeError(f"the worker ended with {status} and was not killed")
    return int(await asyncio.to_thread(note.read_text)), secs


async def _worker(path: Path) -> None:
    """What the process that is killed does."""
    told = pickle.loads(await asyncio.to_thread(path.read_bytes))
    settings, endpoints = told["settings"], told["endpoints"]
    db = await open_database(endpoints.database_url)
    router = open_router(settings, endpoints, db)
    counted = Counted(router.engines.advanced.store)  # pyright: ignore
    counted.ends_at, counted.note = told["ends_at"], told["note"]
    engines = replace(router.engines, arriving=counted)
    router = EngineRouter(engines, db, default="basic")
    runner = MigrationRunner(db, router, open_objects(settings), settings)
    await runner.run(told["org_id"], told["migration_id"], Beat(1))


def _with(router: EngineRouter, arriving: Arriving, bench: Bench) -> EngineRouter:
    return EngineRouter(replace(router.engines, arriving=arriving), bench.db, default="basic")


def _runner(bench: Bench, router: EngineRouter, moments: dict[str, float]) -> MigrationRunner:
    def probe(name: str) -> None:
        moments[name] = time.perf_counter()

    objects = open_objects(bench.settings)
    return MigrationRunner(
        bench.db, router, objects, bench.settings, probe=probe, grace_secs=0
    )  # fmt: skip


def _nodes(numbers: range) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "labels": [["Service"]] * len(numbers),
            "external_id": [f"service-{n}" for n in numbers],
            "name": [f"service {n}" for n in numbers],
            "properties": [_json(number=n, team=f"team {n % 97}", tier=n % 3) for n in numbers],
            "realm": pa.nulls(len(numbers), pa.string()),
        },
        schema=SOURCE_NODES,
    )


def _edges(numbers: range, size: int) -> pa.RecordBatch:
    ends = [(n, (n * 31 + 7919 * step + 1) % size) for n in numbers for step in range(DEGREE)]
    count = len(ends)
    return pa.RecordBatch.from_pydict(
        {
            "src_label": ["Service"] * count,
            "src_external_id": [f"service-{src}" for src, _ in ends],
            "type": list(_types(count)),
            "dst_label": ["Service"] * count,
            "dst_external_id": [f"service-{dst}" for _, dst in ends],
            "src_realm": pa.nulls(count, pa.string()),
            "dst_realm": pa.nulls(count, pa.string()),
            "properties": ['{"since":2020}'] * count,
        },
        schema=SOURCE_EDGES,
    )


def _types(count: int) -> Iterator[str]:
    for number in range(count):
        yield ("CALLS", "READS", "OWNS")[number % DEGREE]


def _json(**values: Any) -> str:
    return orjson.dumps(values).decode()


if __name__ == "__main__":
    asyncio.run(_worker(Path(sys.argv[1])))
