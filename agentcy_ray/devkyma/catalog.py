"""The catalog: databases, tables, extents, graphs and the idempotency ledger, in one SQLite file.

An extent exists when its row does. The row, the table's new snapshot and the ledger's row are one
transaction, so an ingest that was acknowledged is there after any crash, and one that was not
leaves nothing to be seen. One process owns the file; readers get immutable snapshots from memory.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from agentcy_ray.devkyma.types import DEFAULT_COLUMNS, Columns, dump_columns, load_columns

LEDGER_SECONDS = 25 * 3600

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS tables (
    id TEXT PRIMARY KEY, database TEXT NOT NULL, name TEXT NOT NULL,
    snapshot TEXT NOT NULL, columns TEXT NOT NULL, UNIQUE (database, name)) STRICT;
CREATE TABLE IF NOT EXISTS databases (name TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS extents (
    id INTEGER PRIMARY KEY, table_id TEXT NOT NULL, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ledger (
    key TEXT PRIMARY KEY, snapshot TEXT NOT NULL, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL, at REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS graphs (
    database TEXT NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL,
    PRIMARY KEY (database, name)) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Extent:
    """One immutable Parquet file."""

    id: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table as of one snapshot."""

    id: str
    database: str
    name: str
    snapshot: str
    columns: Columns
    extents: tuple[Extent, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What the ledger knows of a key: the first answer to it."""

    snapshot: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph over two tables, with the columns that play a role."""

    name: str
    node_table: str
    edge_table: str
    id_col: str = "id"
    label_col: str = "labels"
    src_col: str = "src"
    dst_col: str = "dst"
    type_col: str = "type"
    realm_col: str | None = None


class Catalog:
    """Read from memory, written through to disk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            folder / "catalog.db", isolation_level=None, check_same_thread=False
        )
        self._db.executescript(_SCHEMA)
        self._lock = threading.Lock()
        self._ledger_cleaned = 0.0
        self._databases: dict[str, dict[str, Table]] = {
            name: {} for (name,) in self._db.execute("SELECT name FROM databases")
        }
        extents: dict[str, list[Extent]] = {}
        rows = self._db.execute("SELECT table_id, id, rows, bytes FROM extents ORDER BY id")
        for table_id, *rest in rows:
            extents.setdefault(table_id, []).append(Extent(*rest))
        rows = self._db.execute("SELECT id, database, name, snapshot, columns FROM tables")
        for table_id, database, name, snapshot, columns in rows:
            self._databases[database][name] = Table(
                table_id,
                database,
                name,
                snapshot,
                load_columns(columns),
                tuple(extents.get(table_id, ())),
            )
        self._graphs: dict[str, dict[str, Graph]] = {}
        for database, name, spec in self._db.execute("SELECT database, name, spec FROM graphs"):
            self._graphs.setdefault(database, {})[name] = Graph(**json.loads(spec))
        self._last_extent = max((e.id for of in extents.values() for e in of), default=0)

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._db.close()

    def databases(self) -> dict[str, dict[str, Table]]:
        """Every database with its tables, by name."""
        with self._lock:
            return {name: dict(tables) for name, tables in self._databases.items()}

    def tables(self, database: str) -> dict[str, Table] | None:
        """The tables of a database as of now; None when there is no such database."""
        with self._lock:
            tables = self._databases.get(database)
            return None if tables is None else dict(tables)

    def graphs(self, database: str) -> dict[str, Graph]:
        """The graphs registered in a database, by name."""
        with self._lock:
            return dict(self._graphs.get(database, {}))

    def written(self, key: str) -> Written | None:
        """What a key was answered with before."""
        with self._lock:
            return self._written(key)

    def new_extent_id(self) -> int:
        """An id that no extent, committed or lost in a crash, ever had."""
        with self._lock:
            self._last_extent = max(self._last_extent + 1, time.time_ns() // 1000)
            return self._last_extent

    def ensure(self, database: str, name: str, columns: Columns = DEFAULT_COLUMNS) -> Table:
        """The table, made with these columns when it is missing."""
        with self._lock:
            if (table := self._databases.get(database, {}).get(name)) is not None:
                return table
            table = Table(str(uuid.uuid4()), database, name, str(uuid.uuid4()), columns)
            with self._db:
                self._db.execute("BEGIN")
                self._db.execute("INSERT OR IGNORE INTO databases VALUES (?)", (database,))
                self._db.execute(
                    "INSERT INTO tables VALUES (?, ?, ?, ?, ?)",
                    (table.id, database, name, table.snapshot, dump_columns(columns)),
                )
            self._databases.setdefault(database, {})[name] = table
            return table

    def evolve(self, table: Table, added: Columns) -> Table:
        """The table with further columns; those that came meanwhile stay as they are."""
        with self._lock:
            table = self._databases[table.database][table.name]
            known = {c.name.lower() for c in table.columns}
            new = tuple(c for c in added if c.name.lower() not in known)
            if not new:
                return table
            grown = replace(table, columns=(*table.columns, *new), snapshot=str(uuid.uuid4()))
            with self._db:
                self._db.execute(
                    "UPDATE tables SET columns = ?, snapshot = ? WHERE id = ?",
                    (dump_columns(grown.columns), grown.snapshot, grown.id),
                )
            self._databases[table.database][table.name] = grown
            return grown

    def add(self, table: Table, extent: Extent | None, key: str | None) -> tuple[Written, bool]:
        """Make an extent visible and remember the key, in one transaction.

        Returns the answer and whether the extent was stored; it was not when the key has been
        answered meanwhile.
        """
        with self._lock:
            if key is not None and (first := self._written(key)) is not None:
                return first, False
            table = self._databases[table.database][table.name]
            snapshot = str(uuid.uuid4()) if extent else table.snapshot
            written = Written(snapshot, extent.rows if extent else 0, extent.bytes if extent else 0)
            with self._db:
                self._db.execute("BEGIN")
                if extent is not None:
                    self._db.execute(
                        "INSERT INTO extents (table_id, id, rows, bytes) VALUES (?, ?, ?, ?)",
                        (table.id, extent.id, extent.rows, extent.bytes),
                    )
                    self._db.execute(
                        "UPDATE tables SET snapshot = ? WHERE id = ?", (snapshot, table.id)
                    )
                if key is not None:
                    self._remember(key, written)
            if extent is not None:
                self._databases[table.database][table.name] = replace(
                    table, snapshot=snapshot, extents=(*table.extents, extent)
                )
            return written, True

    def swap(self, table: Table, gone: frozenset[int], merged: Extent) -> bool:
        """Put one extent in the place of several; False when one of them is gone already."""
        with self._lock:
            table = self._databases[table.database][table.name]
            if not gone <= {e.id for e in table.extents}:
                return False
            snapshot = str(uuid.uuid4())
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany("DELETE FROM extents WHERE id = ?", [(i,) for i in gone])
                self._db.execute(
                    "INSERT INTO extents (table_id, id, rows, bytes) VALUES (?, ?, ?, ?)",
                    (table.id, merged.id, merged.rows, merged.bytes),
                )
                self._db.execute(
                    "UPDATE tables SET snapshot = ? WHERE id = ?", (snapshot, table.id)
                )
            kept = [e for e in table.extents if e.id not in gone] + [merged]
            self._databases[table.database][table.name] = replace(
                table, snapshot=snapshot, extents=tuple(sorted(kept, key=lambda e: e.id))
            )
            return True

    def register_graph(self, database: str, graph: Graph) -> None:
        """Register a graph, or replace one of the same name."""
        spec = {name: getattr(graph, name) for name in Graph.__slots__}
        with self._lock:
            with self._db:
                self._db.execute(
                    "INSERT OR REPLACE INTO graphs VALUES (?, ?, ?)",
                    (database, graph.name, json.dumps(spec)),
                )
            self._graphs.setdefault(database, {})[graph.name] = graph

    def _written(self, key: str) -> Written | None:
        row = self._db.execute(
            "SELECT snapshot, rows, bytes FROM ledger WHERE key = ?", (key,)
        ).fetchone()
        return Written(*row) if row else None

    def _remember(self, key: str, written: Written) -> None:
        now = time.time()
        if now - self._ledger_cleaned > 3600:
            self._ledger_cleaned = now
            self._db.execute("DELETE FROM ledger WHERE at < ?", (now - LEDGER_SECONDS,))
        self._db.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)",
            (key, written.snapshot, written.rows, written.bytes, now),
        )
