"""The two stages of a backfill through Ray Data: cutting texts, and embedding with writing.

A row is one block, in parts that Arrow reads without copying. The stage that embeds writes, too:
the block, its mark and the counts in one transaction under the backfill's epoch. So an actor that
dies repeats the block that it held and no other, however far ahead Ray Data has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa

from agentcy_ray.budgets.ledger import Ledger
from agentcy_ray.core import errors
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.backfill.budget import BlockBudget
from agentcy_ray.ingest.backfill.embedding import BlockEmbedder
from agentcy_ray.ingest.backfill.pace import Pace
from agentcy_ray.ingest.backfill.reading import Block, Cut, Reader, cut_blocks
from agentcy_ray.ingest.backfill.records import Backfill
from agentcy_ray.ingest.backfill.rows import BackfillRows, Rates, lost
from agentcy_ray.ingest.backfill.sink import Sink
from agentcy_ray.ingest.state import State
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.embedder import MeteredEmbedder
from agentcy_ray.retrieval.embedders import load_embedder
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.space import Space
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import open_database

LOOK_SECS = 1.0
"""A pause, a cancel or another owner is seen at most this late."""
CONNECTIONS = 3

CUT = pa.schema([
    ("no", pa.int64()),
    ("source_id", pa.string()),
    ("last_key", pa.string()),
    ("nodes", pa.int64()),
    ("package_id", pa.string()),  # empty = the source has none
    ("ids", pa.large_binary()),  # IPC: id, hash
    ("chunks", pa.large_binary()),  # IPC: CHUNKS
])
RESULT = pa.schema([
    ("nodes", pa.int64()),
    ("chunks", pa.int64()),
    ("tokens", pa.int64()),
    ("done", pa.bool_()),
    ("error", pa.binary()),  # JSON: one of ours, which Ray would wrap
])


@dataclass(frozen=True)
class Task:
    """What both stages are told. Stays inside the cluster."""

    settings: Settings
    database_url: str
    backfill: Backfill
    space: Space
    actors: int
    """That share the rate cap."""
    threads: int
    gpus: int
    """GPUs that the model of one actor lies on, where it runs on any."""

    def folder(self, stage: str) -> Path:
        """Where a process of a stage keeps segments of a store that is not local."""
        return self.settings.state_dir / "ingest" / "backfills" / self.backfill.id.hex / stage

    def chunkers(self) -> Chunkers:
        """What cuts texts as the space was begun."""
        return Chunkers(bundled_tokenizer(), self.settings)


class CutStage:
    """Reads a stretch of blocks of one source, and cuts their texts; one row a block."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._runner = asyncio.Runner()
        self._chunker = task.chunkers().of(task.space.chunking)
        self._held: tuple[str, State] | None = None

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Rows of ``{source_id, package_id, at, blocks}`` → rows of ``CUT``."""
        for row in batch.to_pylist():
            state = self._state(row["package_id"])
            blocks = [
                Block(no, UUID(source), after, last, nodes, again=False)
                for no, source, after, last, nodes in orjson.loads(row["blocks"])
            ]
            package_id = UUID(row["package_id"]) if row["package_id"] else None
            for cut in cut_blocks(state, package_id, blocks, self._chunker, row["at"]):
                yield _row_of(cut)

    def _state(self, package_id: str) -> State:
        """The state after a package; its segments are brought and checked once a process."""
        if self._held is None or self._held[0] != package_id:
            self._held = package_id, self._runner.run(self._load(package_id))
        return self._held[1]

    async def _load(self, package_id: str) -> State:
        task = self._task
        db = await open_database(task.database_url, pool_max=1)
        try:
            reader = Reader(
                db, open_objects(task.settings), task.backfill.org_id, task.backfill.id,
                self._chunker, task.folder("cut"),
            )  # fmt: skip
            return await reader.state(UUID(package_id) if package_id else None)
        finally:
            await db.close()


class FillStage:
    """Embeds a block and writes it, under the same fences as any other driver."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._runner = asyncio.Runner()
        self._opened: tuple[BackfillRows, Sink, BlockEmbedder] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of ``CUT`` → rows of ``RESULT``; an error of ours is one of them."""
        return self._runner.run(self._all(batch))

    async def _all(self, batch: pa.Table) -> pa.Table:
        rows: list[dict[str, Any]] = []
        for row in batch.to_pylist():
            try:
                rows.append(await self._one(cut_of(row)))
            except AgentcyError as error:
                rows.append(result(error=error_json(error)))
        return pa.Table.from_pylist(rows, schema=RESULT)

    async def _one(self, cut: Cut) -> dict[str, Any]:
        rows, sink, embedding = await self._open()
        working = asyncio.ensure_future(self._fill(cut, sink, embedding))
        watching = asyncio.create_task(self._watch(rows))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                watching.result()  # raises
            return await working
        finally:
            for each in (working, watching):
                each.cancel()
            await asyncio.wait({working, watching})

    async def _fill(self, cut: Cut, sink: Sink, embedding: BlockEmbedder) -> dict[str, Any]:
        block = await embedding.embed(await sink.wanted(cut))
        done = await sink.write(block, Rates())
        chunks, tokens = block.chunks.num_rows, block.usage.tokens
        return result(nodes=cut.block.nodes, chunks=chunks, tokens=tokens, done=done)

    async def _watch(self, rows: BackfillRows) -> None:
        backfill = self._task.backfill
        while True:
            await asyncio.sleep(LOOK_SECS)
            if await rows.standing(backfill) != (backfill.epoch, "running"):
                raise lost(backfill)

    async def _embedder(self) -> MeteredEmbedder:
        """The model of the space, in this process."""
        task = self._task
        return await load_embedder(
            task.space.embedder, task.settings, threads=task.threads or None, gpus=task.gpus
        )

    async def _open(self) -> tuple[BackfillRows, Sink, BlockEmbedder]:
        if self._opened is None:
            task = self._task
            db = await open_database(task.database_url, pool_max=CONNECTIONS)
            rows = BackfillRows(db)
            chunker = task.chunkers().of(task.space.chunking)
            reader = Reader(
                db, open_objects(task.settings), task.backfill.org_id, task.backfill.id, chunker,
                task.folder("fill"),
            )  # fmt: skip
            embedder = await self._embedder()
            task.space.require(embedder.info)
            options = task.backfill.options.shared_by(task.actors)
            ledger = Ledger(db, task.settings)
            budget = BlockBudget.of(ledger, task.backfill, task.space.embedder)
            self._opened = (
                rows,
                Sink(rows, task.backfill, task.space, reader.state, VectorBackends(task.settings)),
                BlockEmbedder(embedder, task.space.dim, Pace(options), budget),
            )
        return self._opened


def error_of(row: dict[str, Any]) -> AgentcyError | None:
    """The error that a row of ``RESULT`` carries."""
    if row["error"] is None:
        return None
    told = orjson.loads(row["error"])
    kind: type[AgentcyError] = getattr(errors, told["kind"], AgentcyError)
    return kind(told["message"], code=told["code"], **told["details"])


def error_json(error: AgentcyError) -> bytes:
    """An error of ours as a row carries it."""
    return orjson.dumps({"kind": type(error).__name__, **error.body()}, default=str)


def result(
    nodes: int = 0, chunks: int = 0, tokens: int = 0, done: bool = False, error: bytes | None = None
) -> dict[str, Any]:
    """A row of ``RESULT``."""
    return {"nodes": nodes, "chunks": chunks, "tokens": tokens, "done": done, "error": error}


def _row_of(cut: Cut) -> pa.Table:
    ids = pa.RecordBatch.from_arrays([cut.ids, cut.hashes], ["id", "hash"])
    values: list[list[Any]] = [
        [cut.block.no], [cut.block.source_id.hex], [cut.block.last_key], [cut.block.nodes],
        [cut.package_id.hex if cut.package_id else ""], [_written(ids)], [_written(cut.chunks)],
    ]  # fmt: skip
    return pa.Table.from_arrays(
        [pa.array(value, field.type) for value, field in zip(values, CUT, strict=True)],
        schema=CUT,
    )


def cut_of(row: dict[str, Any]) -> Cut:
    """The block of a row of ``CUT``."""
    ids = _read(row["ids"])
    block = Block(row["no"], UUID(row["source_id"]), "", row["last_key"], row["nodes"], again=False)
    package_id = UUID(row["package_id"]) if row["package_id"] else None
    return Cut(block, package_id, ids["id"], ids["hash"], _read(row["chunks"]))


def _written(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _read(data: bytes) -> pa.RecordBatch:
    return pa.ipc.open_stream(data).read_next_batch()
