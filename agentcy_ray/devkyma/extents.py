"""Extents: immutable Parquet files in a local folder or a bucket.

A local extent is written aside, flushed to the disk and renamed; its folder is flushed too, so the
catalog never points at a file that a power cut can take away. On S3 it is put create-only.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import S3Store

from agentcy_ray.devkyma.arrow import pc
from agentcy_ray.devkyma.catalog import Extent, Table
from agentcy_ray.devkyma.config import Config

PARTITION = "__extent"
"""The folder level that tells extents apart; a query is bound to those of its snapshot."""
STAGING = ".staging"
ROW_GROUP = 131_072


class Extents(Protocol):
    """Where the files of the tables lie."""

    def write(self, table: Table, extent_id: int, rows: pa.Table) -> Extent:
        """Write rows as a new extent; it is durable when this returns."""
        ...

    def read(self, table: Table, extent: Extent) -> pa.Table:
        """The rows of an extent, in its own columns."""
        ...

    def remove(self, table_id: str, extent_id: int) -> None:
        """Remove an extent; one that is absent is no error."""
        ...

    def sweep(self, keep: frozenset[tuple[str, int]]) -> int:
        """Remove what a crash left: every extent that the catalog does not know."""
        ...

    def location(self, table: Table) -> str:
        """The folder of a table's extents, as DataFusion reads it."""
        ...


def open_extents(config: Config) -> Extents:
    """The place that the configuration names."""
    if (bucket := config.bucket) is not None:
        return S3Extents(config, *bucket)
    return LocalExtents(Path(config.data))


def encode(rows: pa.Table) -> bytes:
    """Rows as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(
        rows, sink, compression="zstd", compression_level=1, row_group_size=ROW_GROUP,
        store_schema=True,
    )  # fmt: skip
    return sink.getvalue()


def newest(rows: pa.Table) -> int | None:
    """The greatest ``at``, in nanoseconds."""
    if "at" not in rows.column_names or rows.schema.field("at").type != pa.timestamp("ns"):
        return None
    return pc.max(rows["at"].cast(pa.int64())).as_py()


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
        data = encode(rows)
        staged = self._staging / str(extent_id)
        staged.mkdir()
        with (staged / "rows.parquet").open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _flush_folder(staged)
        into = self._tables / table.id
        fresh = not into.exists()
        into.mkdir(exist_ok=True)
        staged.rename(into / f"{PARTITION}={extent_id}")
        _flush_folder(into)
        if fresh:
            _flush_folder(self._tables)
        return Extent(extent_id, rows.num_rows, len(data), newest(rows))

    def read(self, table: Table, extent: Extent) -> pa.Table:
        """See Extents."""
        return pq.ParquetFile(self._path(table.id, extent.id) / "rows.parquet").read()

    def remove(self, table_id: str, extent_id: int) -> None:
        """See Extents."""
        shutil.rmtree(self._path(table_id, extent_id), ignore_errors=True)

    def sweep(self, keep: frozenset[tuple[str, int]]) -> int:
        """See Extents."""
        swept = 0
        for folder in self._tables.glob(f"*/{PARTITION}=*"):
            extent_id = int(folder.name.partition("=")[2])
            if (folder.parent.name, extent_id) not in keep:
                shutil.rmtree(folder)
                swept += 1
        return swept

    def location(self, table: Table) -> str:
        """See Extents."""
        return f"{self._tables / table.id}/"

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
            skip_signature=options.access_key_id is None,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            **keys,
        )

    def write(self, table: Table, extent_id: int, rows: pa.Table) -> Extent:
        """See Extents."""
        data = encode(rows)
        self._store.put(self._key(table.id, extent_id), data, mode="create")
        return Extent(extent_id, rows.num_rows, len(data), newest(rows))

    def read(self, table: Table, extent: Extent) -> pa.Table:
        """See Extents."""
        data = self._store.get(self._key(table.id, extent.id)).bytes()
        return pq.ParquetFile(pa.BufferReader(data.to_bytes())).read()

    def remove(self, table_id: str, extent_id: int) -> None:
        """See Extents."""
        self._store.delete(self._key(table_id, extent_id))

    def sweep(self, keep: frozenset[tuple[str, int]]) -> int:
        """See Extents."""
        known = {self._key(table_id, extent_id) for table_id, extent_id in keep}
        lost = [
            found["path"]
            for batch in self._store.list(self._prefix + "/")
            for found in batch
            if found["path"] not in known and f"/{PARTITION}=" in found["path"]
        ]
        if lost:
            self._store.delete(lost)
        return len(lost)

    def location(self, table: Table) -> str:
        """See Extents."""
        return f"s3://{self._bucket}/{self._prefix}/{table.id}/"

    def _key(self, table_id: str, extent_id: int) -> str:
        return f"{self._prefix}/{table_id}/{PARTITION}={extent_id}/rows.parquet"


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
