"""Chunks into a vector table by binary COPY, inside a transaction of the caller's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pyarrow as pa

from agentcy_ray.retrieval.copy_rows import COLUMNS, encode_rows, pieces
from agentcy_ray.retrieval.embedder import Vectors
from agentcy_ray.retrieval.space import Space

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]

ROWS_SCHEMA = "vectors"
"""Where the partitions lie that take rows by COPY; the tables over them are in ``public``."""

_STAGE = (
    "CREATE TEMP TABLE new_{table} ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA"
)
_FILL = """
INSERT INTO {table} ({columns}) SELECT DISTINCT ON (chunk_key) {columns}
FROM new_{table} ORDER BY chunk_key ON CONFLICT (chunk_key) DO NOTHING
"""


async def copy_chunks(
    connection: Connection, space: Space, chunks: pa.RecordBatch, vectors: Vectors
) -> int:
    """Write chunks that the space does not hold yet; those it holds stay as they are.

    Straight into the table, as a block that is written once meets nobody else's rows. Where it
    does, because a publish was there before, it goes by way of a table of the transaction.

    Args:
        connection: in a transaction of the space's organisation (``Database.tenant``); nothing is
            committed here, so a cursor may go along.
        space: whose table.
        chunks: rows of ``CHUNKS``.
        vectors: theirs, in their order; of a space whose vectors lie elsewhere they are written by
            the caller, before.

    Returns:
        How many rows were written.

    Raises:
        InvalidError: the vectors do not fit the chunks or the space, or are not finite.
    """
    if not chunks.num_rows:
        return 0
    rows = await asyncio.to_thread(encode_rows, space, chunks, None if space.remote else vectors)
    columns = [*COLUMNS] if space.remote else [*COLUMNS, "embedding"]
    await connection.execute("SAVEPOINT block")
    try:
        tag = await connection.copy_to_table(
            space.table_name,
            schema_name=ROWS_SCHEMA,
            source=pieces(rows),
            columns=columns,
            format="binary",
        )
    except asyncpg.UniqueViolationError:
        await connection.execute("ROLLBACK TO block")
        await stage(connection, space, rows, columns)
        names = ", ".join(columns)
        tag = await connection.execute(_FILL.format(table=space.table_name, columns=names))
        await connection.execute(f"DROP TABLE new_{space.table_name}")
    await connection.execute("RELEASE block")
    return affected(tag)


async def stage(connection: Connection, space: Space, rows: pa.Buffer, columns: list[str]) -> None:
    """Lay encoded rows into ``new_<table>``, a table that ends with the transaction."""
    names = ", ".join(columns)
    await connection.execute(_STAGE.format(table=space.table_name, columns=names))
    await connection.copy_to_table(
        f"new_{space.table_name}", source=pieces(rows), columns=columns, format="binary"
    )


def affected(tag: str) -> int:
    """Rows that a command touched, from its tag: ``INSERT 0 5``, ``UPDATE 5``, ``COPY 5``."""
    return int(tag.rpartition(" ")[2])
