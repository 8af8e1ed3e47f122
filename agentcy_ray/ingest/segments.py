"""Writing sorted rows as Parquet segments of bounded size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentcy_ray.ingest.manifest import SCHEMAS, Segment
from agentcy_ray.ingest.merge import Stream, rebatch
from agentcy_ray.ingest.spool import full_disk_is_typed

GROUP_ROWS = 8192
GROUP_BYTES = 4 * 1024 * 1024
"""A reader holds one row group of a segment, so this bounds its memory."""
SEGMENT_BYTES = 64 * 1024 * 1024
_REPEATED = ("labels", "realm", "connector", "source_id", "type", "media_type", "kind")
_SORTED = ("id", "node_id")


def write_segments(kind: str, rows: Stream, folder: Path) -> list[Segment]:
    """Write rows of ``kind``, sorted by key, as ``<kind>/00000.parquet`` … below ``folder``.

    Raises:
        StorageFullError: the disk is full.
    """
    (folder / kind).mkdir(parents=True, exist_ok=True)
    return list(_files(kind, rebatch(rows, GROUP_ROWS, GROUP_BYTES), folder))


def _files(kind: str, groups: Stream, folder: Path) -> Iterator[Segment]:
    schema = SCHEMAS[kind]
    group = next(groups, None)
    number = 0
    while group is not None:
        path = folder / kind / f"{number:05}.parquet"
        count = size = 0
        with (
            full_disk_is_typed(),
            pq.ParquetWriter(
                path,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=_some(_REPEATED, schema),
                write_statistics=_some(_SORTED, schema),
            ) as writer,
        ):
            while group is not None and size < SEGMENT_BYTES:
                writer.write_table(_strict(group, schema), row_group_size=group.num_rows)
                count += group.num_rows
                size += group.nbytes
                group = next(groups, None)
        yield Segment(
            path=f"{kind}/{path.name}",
            rows=count,
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
        )
        number += 1


def _some(names: tuple[str, ...], schema: pa.Schema) -> Any:
    """Those of the names that the schema has; the stubs of pyarrow know booleans only."""
    return [name for name in names if name in schema.names]


def _strict(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in the schema's order; its nullability is restored."""
    return table.select(schema.names).cast(schema)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
