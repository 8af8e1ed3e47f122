"""External sort of what an extract yields: rows in any order in, rows by key out.

Rows are buffered up to ``BUFFER_BYTES``, then sorted and written as one run to a local file; the
runs are merged at the end. A small extract never touches the disk. Of rows with one key the last
that was yielded wins, tombstones included, and the others are counted.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from agentcy_ray.core.errors import StorageFullError
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.merge import GONE, Stream, aligned, last_of_each

BUFFER_BYTES = 48 * 1024 * 1024
RUN_ROWS = 4096
_SEQ = "_seq"


class Spool:
    """Sorts rows of one schema by one key."""

    def __init__(
        self, schema: pa.Schema, key: str, folder: Path, *, buffer_bytes: int = BUFFER_BYTES
    ) -> None:
        nullable = [field.with_nullable(True) for field in schema]
        self._schema = pa.schema([
            *nullable,
            pa.field(_SEQ, pa.int64()),
            pa.field(GONE, pa.bool_()),
        ])
        self._key = key
        self._folder = folder
        self._limit = buffer_bytes
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._runs: list[Path] = []
        self._next = 0
        self.rows = 0
        """Rows and tombstones taken."""
        self.duplicates = 0
        """Rows that a later one of their key replaced; complete once ``sorted`` is through."""

    def add(self, rows: pa.Table) -> None:
        """Take rows to be kept."""
        self._take(rows.append_column(GONE, pa.repeat(False, rows.num_rows)))

    def remove(self, keys: pa.Array, *, first: bool = False) -> None:
        """Take keys as gone; ``first``: as if they had come before everything else."""
        gone = pa.table({self._key: keys, GONE: pa.repeat(True, len(keys))})
        self._take(gone, seq=-1 if first else None)

    def _take(self, table: pa.Table, seq: int | None = None) -> None:
        if not table.num_rows:
            return
        if seq is None:
            numbers = pa.array(range(self._next, self._next + table.num_rows), pa.int64())
        else:
            numbers = pa.repeat(pa.scalar(seq, pa.int64()), table.num_rows)
        self._next += table.num_rows
        self.rows += table.num_rows
        columns = [
            table[field.name] if field.name in table.column_names
            else numbers if field.name == _SEQ
            else pa.nulls(table.num_rows, field.type)
            for field in self._schema
        ]  # fmt: skip
        self._held.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._held_bytes += self._held[-1].nbytes
        if self._held_bytes >= self._limit:
            self._spill()

    def sorted(self) -> Stream:
        """All rows by key, each key once, tombstones marked ``GONE``; call it once."""
        last = self._sort_held()
        runs = [_read_run(path) for path in self._runs]
        if last is not None:
            runs.append(_slices(last))
        for window in aligned(runs, self._key):
            tables = [table for table in window if table is not None]
            yield self._once(pa.concat_tables(tables)).drop_columns(_SEQ)

    def _once(self, table: pa.Table) -> pa.Table:
        kept = last_of_each(table.combine_chunks(), self._key, _SEQ)
        self.duplicates += table.num_rows - kept.num_rows
        return kept

    def _sort_held(self) -> pa.Table | None:
        if not self._held:
            return None
        table = self._once(pa.concat_tables(self._held))
        self._held, self._held_bytes = [], 0
        return table

    def _spill(self) -> None:
        table = self._sort_held()
        if table is None:
            return
        path = self._folder / f"{self._key}-{id(self):x}-{len(self._runs)}.run"
        with full_disk_is_typed(), pa.OSFile(str(path), "wb") as sink:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with pa.ipc.new_stream(sink, self._schema, options=options) as writer:
                writer.write_table(table, max_chunksize=RUN_ROWS)
        self._runs.append(path)


@contextmanager
def full_disk_is_typed() -> Generator[None]:
    """Turn "no space left" into the error that people can act on.

    Raises:
        StorageFullError: the local disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(
                "no space is left for the package being written; free some below the state "
                "folder, then sync again: the last published state is intact"
            ) from error
        raise


def _slices(table: pa.Table) -> Stream:
    for start in range(0, table.num_rows, RUN_ROWS):
        yield table.slice(start, RUN_ROWS)


def _read_run(path: Path) -> Stream:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def count_true(mask: pa.ChunkedArray | pa.Array) -> int:
    """How many values of a mask are true."""
    return int(pc.sum(pc.fill_null(mask, False)).as_py() or 0)
