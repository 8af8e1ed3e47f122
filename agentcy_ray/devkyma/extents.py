"""Extents: immutable Parquet files in a local folder or a bucket.

A local extent is written aside, flushed to the disk and renamed; its folder is flushed too, so the
catalog never points at a file that a power cut can take away. On S3 it is put create-only.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import S3Store

from agentcy_ray.devkyma.catalog import Extent, Table
from agentcy_ray.devkyma.config import Config
from agentcy_ray.devkyma.types import schema_of

PARTITION = "__extent"
"""The folder level that tells extents apart; a query is bound to those of its snapshot."""
STAGING = ".staging"
ROW_GROUP = 131_072


class Extents(Protocol):
    """Where the files of the tables lie."""

    def write(self, table: Table, extent_id: int, rows: pa.Table) -> Extent:
        """Write rows as a new extent; it is durable when this returns."""
        ...

    def merge(self, table: Table, extents: Sequence[Extent], extent_id: int) -> Extent:
        """Write the rows of several extents as one, in the columns of the table."""
        ...

    def remove(self, table_id: str, extent_id: int) -> None:
        """Remove an extent; one that is absent is no error."""
        ...

    def sweep(self, known: Mapping[str, frozenset[int]]) -> int:
        """Remove what a crash left: extents of known tables that the catalog does not know.

        Other tables are left alone, so that a catalog that was lost takes no data with it.
        """
        ...

    def location(self, table: Table) -> str:
        """The folder of a table's extents, as DataFusion reads it."""
        ...


def open_extents(config: Config) -> Extents:
    """The place that the configuration names."""
    if (bucket := config.bucket) is not None:
        return S3Extents(config, *bucket)
    return LocalExtents(Path(config.data))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A Parquet file and what the catalog keeps of it."""

    data: bytes
    rows: int

    def extent(self, extent_id: int) -> Extent:
        """The catalog's row of the file."""
        return Extent(extent_id, self.rows, len(self.data))


def encoded(rows: pa.Table) -> Encoded:
    """Rows as a Parquet file."""
    sink = io.BytesIO()
    with _writer(sink, rows.schema) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP)
    return Encoded(sink.getvalue(), rows.num_rows)


def merged(table: Table, extents: Sequence[Extent], files: Iterable[Any]) -> Encoded:
    """Several Parquet files as one, read a row group at a time."""
    schema = schema_of(table.columns)
    sink = io.BytesIO()
    held: list[pa.RecordBatch] = []
    with _writer(sink, schema) as writer:
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP):
                held.append(_widened(batch, schema))
                if sum(each.num_rows for each in held) >= ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(held), row_group_size=ROW_GROUP)
                    held.clear()
        if held:
            writer.write_table(pa.Table.from_batches(held), row_group_size=ROW_GROUP)
    return Encoded(sink.getvalue(), sum(e.rows for e in extents))


def _writer(sink: io.BytesIO, schema: pa.Schema) -> Any:
    return pq.ParquetWriter(sink, schema, compression="lz4", write_page_index=True)


def _widened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    present = set(batch.schema.names)
    columns = [
        batch.column(field.name) if field.name in present else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class LocalExtents:
    """Extents in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._tables = self._folder / "tables"
        self._staging = self._folder / STAGING
        self._tables.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir()

    def write(self, table: Table, extent_id: int, rows: pa.Table) -> Extent:
        """See Extents."""
        return self._store(table, extent_id, encoded(rows))

    def merge(self, table: Table, extents: Sequence[Extent], extent_id: int) -> Extent:
        """See Extents."""
        paths = [self._path(table.id, extent.id) / "rows.parquet" for extent in extents]
        return self._store(table, extent_id, merged(table, extents, paths))

    def remove(self, table_id: str, extent_id: int) -> None:
        """See Extents."""
        shutil.rmtree(self._path(table_id, extent_id), ignore_errors=True)

    def sweep(self, known: Mapping[str, frozenset[int]]) -> int:
        """See Extents."""
        swept = 0
        for table_id, extent_ids in known.items():
            for folder in (self._tables / table_id).glob(f"{PARTITION}=*"):
                if int(folder.name.partition("=")[2]) not in extent_ids:
                    shutil.rmtree(folder)
                    swept += 1
        return swept

    def location(self, table: Table) -> str:
        """See Extents."""
        return f"{self._tables / table.id}/"

    def _store(self, table: Table, extent_id: int, file: Encoded) -> Extent:
        staged = self._staging / str(extent_id)
        staged.mkdir()
        with (staged / "rows.parquet").open("xb") as sink:
            sink.write(file.data)
            sink.flush()
            os.fsync(sink.fileno())
        _flush_folder(staged)
        into = self._tables / table.id
        fresh = not into.exists()
        into.mkdir(exist_ok=True)
        staged.rename(into / f"{PARTITION}={extent_id}")
        _flush_folder(into)
        if fresh:
            _flush_folder(self._tables)
        return file.extent(extent_id)

    def _path(self, table_id: str, extent_id: int) -> Path:
        return self._tables / table_id / f"{PARTITION}={extent_id}"


class S3Extents:
    """Extents in a bucket, path-style, created once."""

    def __init__(self, config: Config, bucket: str, prefix: str) -> None:
        options = config.s3
        self._bucket = bucket
        self._prefix = f"{prefix}/tables" if prefix else "tables"
        keys: dict[str, Any] = {
            name: value
            for name in ("endpoint", "access_key_id", "secret_access_key", "session_token")
            if (value := getattr(options, name)) is not None
        }
        self._store = S3Store(
            bucket,
            region=options.region,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            **keys,
        )

    def write(self, table: Table, extent_id: int, rows: pa.Table) -> Extent:
        """See Extents."""
        return self._put(table, extent_id, encoded(rows))

    def merge(self, table: Table, extents: Sequence[Extent], extent_id: int) -> Extent:
        """See Extents."""
        keys = (self._key(table.id, extent.id) for extent in extents)
        files = (pa.BufferReader(self._store.get(key).bytes().to_bytes()) for key in keys)
        return self._put(table, extent_id, merged(table, extents, files))

    def remove(self, table_id: str, extent_id: int) -> None:
        """See Extents."""
        self._store.delete(self._key(table_id, extent_id))

    def sweep(self, known: Mapping[str, frozenset[int]]) -> int:
        """See Extents."""
        lost: list[str] = []
        for table_id, extent_ids in known.items():
            keys = {self._key(table_id, extent_id) for extent_id in extent_ids}
            for batch in self._store.list(f"{self._prefix}/{table_id}/"):
                lost += [found["path"] for found in batch if found["path"] not in keys]
        if lost:
            self._store.delete(lost)
        return len(lost)

    def location(self, table: Table) -> str:
        """See Extents."""
        return f"s3://{self._bucket}/{self._prefix}/{table.id}/"

    def _put(self, table: Table, extent_id: int, file: Encoded) -> Extent:
        self._store.put(self._key(table.id, extent_id), file.data, mode="create")
        return file.extent(extent_id)

    def _key(self, table_id: str, extent_id: int) -> str:
        return f"{self._prefix}/{table_id}/{PARTITION}={extent_id}/rows.parquet"


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
