"""The engine behind both ports: ingest, queries and describing, over catalog and extents."""

from __future__ import annotations

import fcntl
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from obstore.exceptions import BaseError

from agentcy_ray.devkyma.catalog import Catalog, Table, Written
from agentcy_ray.devkyma.config import Config
from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.extents import Extents, open_extents
from agentcy_ray.devkyma.rows import Rows
from agentcy_ray.devkyma.sessions import Sessions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """One body for one table."""

    database: str
    table: str
    body: bytes
    key: str | None = None
    auto_create: bool = True
    evolve: bool = True


class Engine:
    """One data folder or bucket, owned by this process."""

    def __init__(self, config: Config) -> None:
        """Take the data over.

        Raises:
            RuntimeError: another process has them.
        """
        self.config = config
        self._owner = _own(config.catalog_folder)
        self.catalog = Catalog(config.catalog_folder)
        self.extents: Extents = open_extents(config)
        self.sessions = Sessions(config, self.catalog, self.extents)
        self.on_added: Callable[[Table], None] | None = None
        self.extents.sweep({
            table.id: frozenset(extent.id for extent in table.extents)
            for tables in self.catalog.databases().values()
            for table in tables.values()
        })

    def close(self) -> None:
        """Let the data go; requests have to be over."""
        self.catalog.close()
        self._owner.close()

    def ingest(self, request: IngestRequest) -> dict[str, object]:
        """Store a body; it is durable and visible when this returns.

        Raises:
            EngineError: 400 for a body that does not fit, 404 when the table may not be created,
                500 when catalog or storage fail; the same key may be tried again.
        """
        try:
            return self._ingest(request)
        except (OSError, sqlite3.Error, BaseError) as error:
            log.exception("ingest into %s.%s failed", request.database, request.table)
            raise EngineError(500, "ingest_failed", f"storage failed: {error}") from error

    def _ingest(self, request: IngestRequest) -> dict[str, object]:
        if request.key is not None and (first := self.catalog.written(request.key)) is not None:
            return _acknowledge(first, extents=0, replayed=True)
        table = (self.catalog.tables(request.database) or {}).get(request.table)
        if table is None:
            if not request.auto_create:
                raise EngineError(404, "table_not_found", f"table not found: {request.table}")
            table = self.catalog.ensure(request.database, request.table)
        rows = Rows(
            request.body,
            table.columns,
            evolve=request.evolve,
            new_columns=self.config.limits.new_columns,
        )
        if rows.added:
            table = self.catalog.evolve(table, rows.added)
        extent = None
        if rows.count:
            batch = rows.table(table.columns)
            extent = self.extents.write(table, self.catalog.new_extent_id(), batch)
        stored = False
        try:
            written, stored = self.catalog.add(table, extent, request.key)
        finally:
            if extent is not None and not stored:
                self.extents.remove(table.id, extent.id)
        if stored and self.on_added is not None:
            self.on_added(table)
        return _acknowledge(written, extents=1 if stored and extent else 0, replayed=not stored)

    def schema(self) -> dict[str, object]:
        """What there is, as ``GET /v1/catalog/schema`` tells it."""
        return {
            "databases": [
                {
                    "name": database,
                    "tables": [
                        {
                            "name": table.name,
                            "columns": [
                                {"name": c.name, "type": c.type, "nullable": c.nullable}
                                for c in table.columns
                            ],
                        }
                        for _, table in sorted(tables.items())
                    ],
                }
                for database, tables in sorted(self.catalog.databases().items())
            ]
        }


def _acknowledge(written: Written, *, extents: int, replayed: bool) -> dict[str, object]:
    return {
        "snapshot_id": written.snapshot,
        "extent_count": extents,
        "rows_ingested": written.rows,
        "bytes_written": written.bytes,
        "replayed": replayed,
    }


def _own(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise RuntimeError(
            f"another engine owns {folder}; stop it or choose another folder"
        ) from None
    return lock
