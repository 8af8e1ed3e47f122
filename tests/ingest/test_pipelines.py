"""What a pipeline acknowledged is there, whatever became of the process that took it."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentcy_ray.connectors.registry import builtin_registry
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.context.engine import Query, Scope
from agentcy_ray.core.ids import new_id
from agentcy_ray.ingest.continuous.file_drop import FileDrops
from agentcy_ray.ingest.continuous.flush import Flusher
from agentcy_ray.ingest.continuous.ledger import KIND, Ledger
from agentcy_ray.ingest.continuous.mapping import RowMaker
from agentcy_ray.ingest.continuous.publish import PipelinePublisher
from agentcy_ray.ingest.continuous.records import NewPipeline, Pipeline
from agentcy_ray.ingest.continuous.store import PipelineStore
from agentcy_ray.ingest.continuous.taking import take
from agentcy_ray.ingest.service import source_opener
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.records import Job
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.stores.vault import Vault
from tests.ingest.harness import REALM, House

ROOT = Path(__file__).parents[2]


class Clock:
    """Goes by hand."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC)

    def now(self) -> datetime:
        return self.moment


async def pipeline_of(house: House, table: str) -> Pipeline:
    new = NewPipeline.model_validate({
        "name": f"p-{new_id().hex}",
        "kind": "webhook",
        "target_table": table,
        "realm": REALM,
    })
    return await PipelineStore(house.db).create(house.principal, new)


def publisher_of(house: House) -> PipelinePublisher:
    registry = builtin_registry(house.settings)
    store = SourceStore(house.db, Vault(os.urandom(32)), registry)
    opener = source_opener(store, registry, house.objects, house.db)
    house.source.open = opener  # type: ignore[method-assign]
    queue = PostgresQueue(house.settings, house.db)
    drops = FileDrops(house.db, house.objects, queue, house.settings.state_dir / "drops")
    return PipelinePublisher(house.db, house.objects, house.engine, house.runner(), drops)


async def jobs_of(house: House) -> list[Job]:
    found = await PostgresQueue(house.settings, house.db).store.list(house.org_id, kind=KIND)
    return [job for job in found if job.open]


async def publish(house: House) -> None:
    """Carry the one job out that was asked for, as a worker would."""
    (job,) = await jobs_of(house)
    house.claims += 1
    await publisher_of(house).run(job, Beat(house.claims))
    async with house.db.system() as connection:
        await connection.execute("UPDATE jobs SET status = 'succeeded' WHERE id = $1", job.id)


async def read(house: House, text: str) -> list[tuple[Any, ...]]:
    answer = await house.engine.query(Scope(org_id=house.org_id), Query(text=text))
    return list(answer.rows)


async def add(house: House, pipeline: Pipeline, *records: dict[str, Any], **how: Any) -> str:
    """Take records in this process; returns the run."""
    maker = RowMaker(
        pipeline.target_table, pipeline.mapping, realm=pipeline.realm, pipeline_id=pipeline.id
    )
    ledger = Ledger(house.db, PostgresQueue(house.settings, house.db), **how)
    flusher = Flusher(house.objects, ledger, flush_secs=0.01)
    answer = await flusher.add(pipeline, *take(maker, enumerate(records, start=1)))
    await flusher.close()
    return answer.body["run_id"]


@pytest.mark.chaos
@pytest.mark.requirement("PIPE-05")
@pytest.mark.parametrize("table", ["context_nodes", "context_events"])
async def test_a_record_acknowledged_survives_the_death_of_its_process(
    house: House, tmp_path: Path, table: str
) -> None:
    pipeline = await pipeline_of(house, table)
    path = tmp_path / "given.pickle"
    records = [{"label": "Kept", "external_id": f"k{n}", "n": n} for n in range(50)]
    given = {
        "url": house.db._pool._connect_args[0], "settings": house.settings, "pipeline": pipeline,
        "records": records,
    }  # fmt: skip
    path.write_bytes(pickle.dumps(given))
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "tests.ingest.pipeline_victim", str(path)],
        cwd=ROOT, timeout=120, capture_output=True,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert process.stdout.startswith(b"prn_")
    await publish(house)
    await publish_nothing_more(house)
    found = await read(house, "MATCH (k:Kept) RETURN k.n ORDER BY k.n")
    assert [row[0] for row in found] == list(range(50))


async def publish_nothing_more(house: House) -> None:
    assert await jobs_of(house) == []


async def test_a_segment_that_comes_while_another_is_published_is_asked_for_anew(
    house: House,
) -> None:
    pipeline = await pipeline_of(house, "context_nodes")
    await add(house, pipeline, {"label": "Late", "external_id": "a"})
    await add(house, pipeline, {"label": "Late", "external_id": "b"})
    (job,) = await jobs_of(house)  # one job for both: it has not begun
    async with house.db.system() as connection:
        await connection.execute("UPDATE jobs SET status = 'running' WHERE id = $1", job.id)
    await add(house, pipeline, {"label": "Late", "external_id": "c"})
    later = [one for one in await jobs_of(house) if one.id != job.id]
    assert len(later) == 1
    house.claims += 1
    await publisher_of(house).run(job, Beat(house.claims))
    house.claims += 1
    await publisher_of(house).run(later[0], Beat(house.claims))  # finds nothing
    assert await read(house, "MATCH (n:Late) RETURN n.name ORDER BY n.name") == [
        ("a",), ("b",), ("c",),
    ]  # fmt: skip


async def test_a_run_is_sealed_after_a_quarter_of_an_hour(house: House) -> None:
    pipeline = await pipeline_of(house, "context_events")
    clock = Clock()
    first = await add(house, pipeline, {"body": "x"}, clock=clock)
    assert await add(house, pipeline, {"body": "y"}, clock=clock) == first
    clock.moment += timedelta(minutes=16)
    second = await add(house, pipeline, {"body": "z"}, {"at": "never"}, clock=clock)
    assert second != first
    runs = [run for _, run in await PipelineStore(house.db).runs(house.principal, pipeline.id)]
    assert [(run.id, run.status, run.accepted, run.rejected) for run in runs] == [
        (second, "open", 1, 1), (first, "sealed", 2, 0),
    ]  # fmt: skip


async def test_a_file_that_was_cut_off_half_way_is_taken_whole_and_once(house: House) -> None:
    new = {
        "name": "drop", "kind": "file_drop", "target_table": "context_events", "realm": REALM,
        "config": {"prefix": "in", "format": "ndjson"},
    }  # fmt: skip
    pipeline = await PipelineStore(house.db).create(
        house.principal, NewPipeline.model_validate(new)
    )
    text = b"\n".join(orjson.dumps({"label": "Drip", "n": n}) for n in range(30_000))
    await house.objects.put_new(f"files/{house.org_id.hex}/in/a.ndjson", text)
    queue = PostgresQueue(house.settings, house.db)
    drops = FileDrops(house.db, house.objects, queue, house.settings.state_dir / "drops")
    ledger, drops._ledger = drops._ledger, Cut()  # type: ignore[assignment]
    with pytest.raises(ConnectionError):
        await drops.run(house.org_id, pipeline.id, Beat(1))
    drops._ledger = ledger
    for _ in range(2):
        await drops.run(house.org_id, pipeline.id, Beat(1))
    ((_, run),) = await PipelineStore(house.db).runs(house.principal, pipeline.id)
    assert (run.accepted, run.segments) == (30_000, 2)


class Cut:
    """A ledger that is away."""

    async def write(self, *_: Any, **__: Any) -> None:
        raise ConnectionError
