"""The log as a file: CSV, NDJSON or Parquet, streamed page by page and never whole in memory."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from agentcy_ray.audit.entry import AuditRecord
from agentcy_ray.audit.filters import EVERYTHING, AuditFilter
from agentcy_ray.audit.log import PAGE, AuditLog

Form = Literal["csv", "ndjson", "parquet"]
MEDIA_TYPES: dict[Form, str] = {
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
ROW_GROUP = 10_000
"""Entries in one row group of a Parquet file: what is held at a time."""
_JSON = ("resource", "input", "context")
SCHEMA = pa.schema([
    pa.field("id", pa.string(), nullable=False),
    pa.field("ts", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("org_id", pa.string(), nullable=False),
    pa.field("user_id", pa.string()),
    pa.field("api_key_id", pa.string()),
    pa.field("category", pa.string(), nullable=False),
    pa.field("action", pa.string(), nullable=False),
    pa.field("decision", pa.string(), nullable=False),
    pa.field("resource", pa.string(), nullable=False),
    pa.field("policy_id", pa.string()),
    pa.field("rule", pa.string()),
    pa.field("reasons", pa.list_(pa.string()), nullable=False),
    pa.field("input", pa.string()),
    pa.field("context", pa.string(), nullable=False),
    pa.field("seq", pa.int64(), nullable=False),
    pa.field("prev_hash", pa.string(), nullable=False),
    pa.field("hash", pa.string(), nullable=False),
])
"""Columns of a Parquet file: those of ``AuditRecord``, JSON ones as text."""


def export(
    log: AuditLog, org_id: UUID, form: Form, where: AuditFilter = EVERYTHING
) -> AsyncIterator[bytes]:
    """The matching entries of now, oldest first, as blocks of a file of the given form."""
    writers = {"csv": _csv, "ndjson": _ndjson, "parquet": _parquet}
    size = ROW_GROUP if form == "parquet" else PAGE
    return writers[form](log.pages(org_id, where, size=size))


async def _csv(pages: AsyncIterator[Sequence[AuditRecord]]) -> AsyncIterator[bytes]:
    yield _csv_lines([list(AuditRecord.model_fields)])
    async for page in pages:
        yield _csv_lines([
            [_cell(item) for item in record.model_dump(mode="json").values()] for record in page
        ])


async def _ndjson(pages: AsyncIterator[Sequence[AuditRecord]]) -> AsyncIterator[bytes]:
    async for page in pages:
        yield b"".join([record.model_dump_json().encode() + b"\n" for record in page])


async def _parquet(pages: AsyncIterator[Sequence[AuditRecord]]) -> AsyncIterator[bytes]:
    sink = _Sink()
    writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), SCHEMA, compression="zstd")
    async for page in pages:
        await asyncio.to_thread(writer.write_table, pa.Table.from_pylist(_flat(page), SCHEMA))
        yield sink.taken()
    writer.close()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """A file that is read while it is written."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        self._blocks.append(bytes(block))
        self._size += len(self._blocks[-1])
        return len(self._blocks[-1])

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        """What was written since the last look."""
        blocks, self._blocks = self._blocks, []
        return b"".join(blocks)


def _flat(page: Sequence[AuditRecord]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for record in page:
        row = record.model_dump(mode="json") | {"ts": record.ts}
        for name in _JSON:
            row[name] = None if row[name] is None else orjson.dumps(row[name]).decode()
        rows.append(row)
    return rows


def _cell(value: Any) -> str:
    """A CSV cell; one that a spreadsheet would run as a formula gets an apostrophe."""
    text = (
        value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()
    )
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _csv_lines(rows: Sequence[Sequence[str]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines).writerows(rows)
    return lines.getvalue().encode()
