"""Dropped files: objects below a folder of the organisation's files, each version taken once.

A file is read in parts, whose segments have derived names; all of them, and the note that this
version was taken, are written down in one transaction. Cut off before it, the file is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from agentcy_ray.core.errors import (
    AgentcyError,
    BadRequestError,
    ConflictError,
    NotFoundError,
)
from agentcy_ray.ingest.continuous.body import JSON, BadLine, records_of
from agentcy_ray.ingest.continuous.ledger import KIND, DroppedFile, Ledger, Taken
from agentcy_ray.ingest.continuous.mapping import RowMaker
from agentcy_ray.ingest.continuous.records import REJECTS_KEPT, FileDrop, Pipeline
from agentcy_ray.ingest.continuous.segments import NewSegment, segment_key, to_parquet
from agentcy_ray.ingest.continuous.store import COLUMNS
from agentcy_ray.ingest.continuous.taking import take
from agentcy_ray.ingest.spool import full_disk_is_typed
from agentcy_ray.jobs.records import NewJob, Progress

if TYPE_CHECKING:
    from agentcy_ray.ingest.progress import Beats
    from agentcy_ray.jobs.queue import JobQueue
    from agentcy_ray.stores.objects import ObjectInfo, ObjectStore
    from agentcy_ray.stores.postgres import Database

PART_ROWS = 20_000
"""Records of one segment."""
JSON_BYTES = 256 * 1024 * 1024
"""Largest file of format ``json``, which is read whole; larger ones come as NDJSON."""

_log = structlog.get_logger(__name__)

_ALL = f"SELECT {COLUMNS} FROM context_pipelines WHERE kind = 'file_drop' AND enabled"
_GET = f"{_ALL} AND id = $1"
_TAKEN = "SELECT key, etag FROM file_drop_objects WHERE pipeline_id = $1"
_FAILED = """
INSERT INTO file_drop_objects (org_id, pipeline_id, key, etag, status, error)
VALUES ($1, $2, $3, $4, 'failed', $5) ON CONFLICT DO NOTHING
"""


def drop_folder(org_id: UUID, prefix: str) -> str:
    """Where the files of a drop lie in the object store."""
    return f"files/{org_id.hex}/{prefix}"


class FileDrops:
    """Finds and takes dropped files."""

    def __init__(self, db: Database, objects: ObjectStore, queue: JobQueue, work_dir: Path) -> None:
        self._db = db
        self._objects = objects
        self._queue = queue
        self._ledger = Ledger(db, queue)
        self._work_dir = work_dir

    async def look(self) -> int:
        """Ask for a job for each drop that has new files; returns their number."""
        async with self._db.system() as connection:
            rows = await connection.fetch(_ALL)
        asked = 0
        for pipeline in (Pipeline(**dict(row)) for row in rows):
            if not await self._fresh(pipeline):
                continue
            await self._queue.enqueue(
                NewJob(
                    org_id=pipeline.org_id,
                    kind=KIND,
                    payload={"pipeline_id": str(pipeline.id)},
                    dedupe_key=f"{KIND}:{pipeline.id}",
                )
            )
            asked += 1
        return asked

    async def watch(self, every_secs: float, stop: asyncio.Event) -> None:
        """Look from time to time until ``stop``; any number of processes may."""
        while not stop.is_set():
            try:
                await self.look()
            except AgentcyError as error:
                _log.warning("file_drops_not_looked_at", problem=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_secs):
                    await stop.wait()

    async def run(self, org_id: UUID, pipeline_id: UUID, beat: Beats) -> None:
        """Take every new file of a drop; one that cannot be read is marked and left out.

        Raises:
            CancelledByRequestError: a cancel was asked for; files taken so far stay so.
            StoreUnavailableError, StorageFullError: a store failed; the next attempt goes on.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, pipeline_id)
        if row is None:
            return
        pipeline = Pipeline(**dict(row))
        files = await self._fresh(pipeline)
        for number, info in enumerate(files, start=1):
            beat.check()
            try:
                await self._take(pipeline, info)
            except NotFoundError as error:  # deleted, or taken by another worker, meanwhile
                _log.info("dropped_file_gone", key=info.key, reason=error.message)
            except (BadRequestError, UnreadableError) as error:
                await self._fail(pipeline, info, str(error))
            beat.progress(Progress(done=number, total=len(files), unit="files"))

    async def _fresh(self, pipeline: Pipeline) -> list[ObjectInfo]:
        """Versions that were not looked at yet, oldest first."""
        config = FileDrop.model_validate(pipeline.config)
        folder = drop_folder(pipeline.org_id, config.prefix)
        async with self._db.tenant(pipeline.org_id) as connection:
            rows = await connection.fetch(_TAKEN, pipeline.id)
        known = {(row["key"], row["etag"]) for row in rows}
        found = [
            info async for info in self._objects.scan(folder) if (info.key, info.etag) not in known
        ]
        return sorted(found, key=_age)

    async def _take(self, pipeline: Pipeline, info: ObjectInfo) -> None:
        folder = Path(await asyncio.to_thread(self._folder))
        try:
            path = await self._local(info, folder)
            segments: list[NewSegment] = []
            taken: list[Taken] = []
            parts = _parts(pipeline, info, path)
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                said, rows = part
                taken.append(said)
                if rows is not None:
                    segments.append(await self._store(pipeline, info, len(taken), rows))
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        drop = DroppedFile(info.key, info.etag)
        await self._ledger.write(pipeline, [_together(taken)], segments, drop=drop)

    def _folder(self) -> str:
        with full_disk_is_typed():
            self._work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            return tempfile.mkdtemp(dir=self._work_dir)

    async def _local(self, info: ObjectInfo, folder: Path) -> Path:
        """The file on this machine."""
        path = self._objects.local_path(info.key)
        if path is not None:
            return path
        path = folder / "object"
        with full_disk_is_typed(), path.open("wb") as file:
            async for piece in self._objects.stream(info.key):
                await asyncio.to_thread(file.write, piece)
        return path

    async def _store(
        self, pipeline: Pipeline, info: ObjectInfo, number: int, rows: pa.Table
    ) -> NewSegment:
        segment_id = uuid5(pipeline.id, f"{info.key}\x1f{info.etag}\x1f{number}")
        data = await asyncio.to_thread(to_parquet, rows)
        key = segment_key(pipeline.org_id, pipeline.source_id, segment_id)
        try:
            await self._objects.put_new(key, data)
        except ConflictError:  # of an attempt that was cut off: the same rows
            _log.info("dropped_file_part_is_there", key=key)
        return NewSegment(segment_id, key, rows.num_rows, len(data))

    async def _fail(self, pipeline: Pipeline, info: ObjectInfo, reason: str) -> None:
        _log.warning("dropped_file_unreadable", key=info.key, reason=reason)
        error = {"code": "unreadable", "message": reason}
        async with self._db.tenant(pipeline.org_id) as connection:
            await connection.execute(
                _FAILED, pipeline.org_id, pipeline.id, info.key, info.etag, error
            )


class UnreadableError(ValueError):
    """A file that is not of its drop's format."""


def _parts(
    pipeline: Pipeline, info: ObjectInfo, path: Path
) -> Iterator[tuple[Taken, pa.Table | None]]:
    """The records of a file, some at a time. Events without time or id get those of the file.

    Raises:
        UnreadableError: it is not of the drop's format.
    """
    maker = RowMaker(
        pipeline.target_table, pipeline.mapping, realm=pipeline.realm, pipeline_id=pipeline.id,
        clock=_Then(info.modified),
    )  # fmt: skip
    records = _records(FileDrop.model_validate(pipeline.config).format, path)
    event_id = partial(_event_id, info)
    try:
        while some := list(islice(records, PART_ROWS)):
            yield take(maker, some, event_id=event_id)
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error, orjson.JSONDecodeError) as error:
        raise UnreadableError(f"it cannot be read: {error}") from error


def _records(format_: str, path: Path) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    if format_ == "ndjson":
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                for _, record in records_of(line, ""):
                    yield number, record
    elif format_ == "json":
        if path.stat().st_size > JSON_BYTES:
            raise UnreadableError(f"it passes {JSON_BYTES >> 20} MiB; drop it as NDJSON")
        text = path.read_bytes()
        orjson.loads(text)  # a drop says its format: no second guess, as for what is posted
        yield from records_of(text, JSON)
    elif format_ == "csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            for row in reader:
                if "" in row:
                    yield reader.line_num, BadLine("it has more cells than the header")
                else:
                    yield reader.line_num, {k: v for k, v in row.items() if v not in (None, "")}
    else:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=2_000):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: value for name, value in row.items() if value is not None}


def _together(taken: list[Taken]) -> Taken:
    errors = [error for each in taken for error in each.errors]
    return Taken(
        sum(each.accepted for each in taken),
        sum(each.rejected for each in taken),
        tuple(errors[:REJECTS_KEPT]),
    )


def _event_id(info: ObjectInfo, line: int) -> str:
    seed = f"{info.key}\x1f{info.etag}\x1f{line}"
    return blake2b(seed.encode(), digest_size=16).hexdigest()


def _age(info: ObjectInfo) -> tuple[datetime, str]:
    return info.modified, info.key


class _Then:
    """A clock that stands still at the time of a file."""

    def __init__(self, moment: datetime) -> None:
        self._moment = moment

    def now(self) -> datetime:
        """That time."""
        return self._moment
