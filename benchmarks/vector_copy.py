"""``vs_bare_copy``: chunks with vectors of no cost into a vector table, against a bare binary COPY.

Ours turns Arrow into the bytes of COPY, in the order of keys, and writes each block in a
transaction of its organisation, behind the fence of the table. The control sends the same bytes,
made before, into the same kind of table without a fence, by as many connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg

from agentcy_ray.retrieval.bulk_copy import ROWS_SCHEMA, copy_chunks
from agentcy_ray.retrieval.copy_rows import COLUMNS, encode_rows, pieces
from agentcy_ray.retrieval.embedder import EmbedderInfo
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.embedded.postgres import USER
from agentcy_ray.stores.embedded.postgres_login import superuser_url
from benchmarks.figures import Figure, alternate, compared
from benchmarks.stores import Bench, fresh_stores
from benchmarks.vector_corpus import DIM, Block, Corpus

ROWS, ROUNDS, WRITERS, ENOUGH = 100_000, 5, 2, 50_000
_COPIED = [*COLUMNS, "embedding"]


async def run(rows: int = ROWS) -> list[Figure]:
    """Rows a second of both, in turns, each into an empty table."""
    blocks = list(Corpus().blocks(rows))
    async with fresh_stores() as bench:
        spaces = SpaceStore(bench.db, bench.settings)
        info = EmbedderInfo("local:none", f"none/{DIM}", DIM, 512)
        space = await spaces.create(bench.owner.org_id, info)
        encoded = [encode_rows(space, *block) for block in blocks]
        pool = await asyncpg.create_pool(
            bench.endpoints.database_url, min_size=WRITERS, max_size=WRITERS
        )
        table = f"{ROWS_SCHEMA}.{space.table_name}"
        await pool.execute(f"CREATE TABLE bare (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES)")

        # A checkpoint is the server's own affair, and takes its superuser.
        data = Layout(bench.settings.state_dir).data("postgres")
        admin = await asyncpg.connect(superuser_url(data, USER, bench.endpoints.database_url))

        async def empty(name: str) -> None:
            await pool.execute(f"TRUNCATE {name}")
            await admin.execute("CHECKPOINT")

        async def ours() -> float:
            await empty(table)
            return rows / await _timed(blocks, _governed(bench, space))

        async def theirs() -> float:
            await empty("bare")
            return rows / await _timed(encoded, _bare(pool))

        values, controls = await alternate(ours, theirs, ROUNDS)
        await admin.close()
        await pool.close()
    figure = compared("vs_bare_copy", "rows/s", "bare binary COPY", values, controls, at_least=0.8)
    goal = f"{figure.goal} or ≥ {ENOUGH:,} rows/s"
    return [replace(figure, goal=goal, met=figure.met or figure.value >= ENOUGH)]


def _governed(bench: Bench, space: Space) -> Callable[[Block], Awaitable[Any]]:
    async def write(block: Block) -> None:
        async with bench.db.tenant(space.org_id) as connection:
            assert await copy_chunks(connection, space, *block) == block[0].num_rows

    return write


def _bare(pool: Any) -> Callable[[Any], Awaitable[Any]]:
    async def write(rows: Any) -> None:
        async with pool.acquire() as connection:
            await connection.copy_to_table(
                "bare", source=pieces(rows), columns=_COPIED, format="binary"
            )

    return write


async def _timed(blocks: list[Any], write: Callable[[Any], Awaitable[Any]]) -> float:
    """Seconds that ``WRITERS`` need for all blocks."""
    waiting = iter(blocks)

    async def work() -> None:
        for block in waiting:
            await write(block)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WRITERS)))
    return time.perf_counter() - began
