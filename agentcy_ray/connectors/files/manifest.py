"""What the last extract saw, file by file, so that the next one reads only what changed.

A manifest is a Parquet file in the source's work folder, named by a digest of its rows; the cursor
carries only the digest. Without the file (another machine, a cleared folder) the next extract reads
everything again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

KEPT = 32
"""Manifests kept: failed syncs and reverts go back to older cursors."""
_ROWS = 10_000

_SCHEMA = pa.schema([
    pa.field("path", pa.binary(), nullable=False),
    pa.field("kind", pa.string(), nullable=False),
    pa.field("size", pa.int64()),
    pa.field("mtime_ns", pa.int64()),
    pa.field("digest", pa.string(), nullable=False),
    pa.field("text", pa.bool_(), nullable=False),
])


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of a manifest."""

    path: bytes
    kind: Literal["folder", "file"]
    size: int | None = None
    mtime_ns: int | None = None
    """None = compare the content next time, whatever the clock says."""
    digest: str = ""
    """Of the content; empty when it was not read."""
    text: bool = False
    """Whether it has a document."""


class ManifestWriter:
    """Writes a manifest in walk order; ``finish`` names it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._spare = folder / f".{token_hex(8)}.new"
        self._file = pq.ParquetWriter(self._spare, _SCHEMA, compression="zstd")
        self._hash = blake2b(digest_size=16)
        self._rows: list[Seen] = []
        self.files = 0

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what was not finished."""
        self._file.close()
        self._spare.unlink(missing_ok=True)

    def add(self, seen: Seen) -> None:
        """Append a line."""
        self._rows.append(seen)
        self._hash.update(repr(astuple(seen)).encode())
        self.files += seen.kind == "file"
        if len(self._rows) >= _ROWS:
            self._flush()

    def finish(self) -> str:
        """Close the manifest under its digest and drop the oldest ones.

        Returns:
            The digest.
        """
        self._flush()
        self._file.close()
        digest = self._hash.hexdigest()
        target = _path(self._folder, digest)
        self._spare.replace(target)
        known = sorted(self._folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
        for path in known[:-KEPT]:
            path.unlink(missing_ok=True)
        return digest

    def _flush(self) -> None:
        columns = zip(*map(astuple, self._rows), strict=True) if self._rows else [()] * len(_SCHEMA)
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(columns, _SCHEMA, strict=True)
        ]
        self._file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
        self._rows.clear()


def has_manifest(folder: Path, digest: str) -> bool:
    """Whether the manifest is here."""
    return _path(folder, digest).is_file()


def read_manifest(folder: Path, digest: str) -> Iterator[Seen]:
    """The lines of a manifest, in walk order."""
    with pq.ParquetFile(_path(folder, digest)) as file:
        for batch in file.iter_batches(_ROWS):
            for row in batch.to_pylist():
                yield Seen(**row)


def _path(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.parquet"
