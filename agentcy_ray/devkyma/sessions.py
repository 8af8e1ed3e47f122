"""DataFusion sessions: one per database and memory budget, its tables bound to the newest snapshot.

A table is a listing of its extents' folders, narrowed to the extents of the snapshot. Merged or
dropped extents stay on disk until no query that may read them is under way.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pyarrow as pa
from datafusion import (
    DataFrame,
    RuntimeEnvBuilder,
    SessionConfig,
    SessionContext,
    SQLOptions,
    col,
    lit,
)
from datafusion import functions as f
from datafusion.object_store import AmazonS3

from agentcy_ray.devkyma.catalog import Catalog, Table
from agentcy_ray.devkyma.config import Config
from agentcy_ray.devkyma.dialect import forget_newer
from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.extents import PARTITION, Extents
from agentcy_ray.devkyma.types import schema_of
from agentcy_ray.devkyma.vectors import vector_functions
from agentcy_ray.devkyma.views import viewed

METADATA_CACHE = "64M"
MOST_SESSIONS = 32


class Session:
    """The tables of one database for queries under one memory pool."""

    def __init__(self, config: Config, extents: Extents, memory_bytes: int) -> None:
        self._extents = extents
        self._lock = threading.Lock()
        self._snapshots: dict[str, str] = {}
        options = (
            SessionConfig()
            .with_target_partitions(os.cpu_count() or 1)
            # A message of Flight is then about 2 MiB, and each one costs time in Python.
            .set("datafusion.execution.batch_size", "32768")
            .set("datafusion.execution.parquet.pushdown_filters", "true")
            .set("datafusion.execution.parquet.reorder_filters", "true")
            .set("datafusion.sql_parser.map_string_types_to_utf8view", "false")
            .set("datafusion.execution.listing_table_ignore_subdirectory", "false")
        )
        runtime = RuntimeEnvBuilder().with_disk_manager_os().with_greedy_memory_pool(memory_bytes)
        self._context = SessionContext(options, runtime)
        # A listing that is remembered would hide the next extent.
        self._context.sql("SET datafusion.runtime.list_files_cache_limit = '0K'")
        self._context.sql(f"SET datafusion.runtime.metadata_cache_limit = '{METADATA_CACHE}'")
        # A view becomes large text in the plan, on all cores; to cast that afterwards costs little.
        self._expand(True)
        self._read_only = (
            SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)
        )
        forget_newer(self._context)
        for function in vector_functions():
            self._context.register_udf(function)
        if (bucket := config.bucket) is not None:
            options = config.s3
            store = AmazonS3(
                bucket[0],
                region=options.region,
                access_key_id=options.access_key_id,
                secret_access_key=options.secret_access_key,
                session_token=options.session_token,
                endpoint=options.endpoint,
                allow_http=True,
            )
            self._context.register_object_store("s3://", store, bucket[0])

    def plan(self, tables: dict[str, Table], sql: str) -> DataFrame:
        """The logical plan of a query over these tables.

        Raises:
            EngineError: 400 ``sql_parse_error`` when it does not parse or plan.
        """
        with self._lock:
            for table in tables.values():
                if self._snapshots.get(table.name) != table.snapshot:
                    self._bind(table)
                    self._snapshots[table.name] = table.snapshot
            try:
                frame = self._context.sql_with_options(sql, self._read_only)
                names = frame.schema().names
                if len(set(names)) < len(names):  # as of `SELECT a.id, b.id`, which cannot expand
                    self._expand(False)
                    frame = self._context.sql_with_options(sql, self._read_only)
                    self._expand(True)
            except Exception as error:  # DataFusion raises bare Exception and ValueError
                raise EngineError(400, "sql_parse_error", str(error)) from error
        return frame

    def _expand(self, on: bool) -> None:
        """Whether plans made from here on turn views into large texts themselves."""
        self._context.sql(f"SET datafusion.optimizer.expand_views_at_output = {on}")

    def _bind(self, table: Table) -> None:
        quoted = f'"{table.name}"'
        if self._context.table_exist(quoted):
            self._context.deregister_table(quoted)
        schema = viewed(schema_of(table.columns))
        if not table.extents:
            empty = pa.RecordBatch.from_arrays(
                [pa.array([], c.type) for c in schema], schema=schema
            )
            self._context.register_record_batches(quoted, [[empty]])
            return
        files = self._context.read_parquet(
            self._extents.location(table),
            table_partition_cols=[(PARTITION, pa.int64())],
            schema=schema,
        )
        known = f.in_list(col(PARTITION), [lit(extent.id) for extent in table.extents])
        columns = [col(f'"{column.name}"') for column in table.columns]
        self._context.register_view(quoted, files.filter(known).select(*columns))


class Sessions:
    """Sessions by database, and the extents that wait for their last reader."""

    def __init__(self, config: Config, catalog: Catalog, extents: Extents) -> None:
        self._config = config
        self._catalog = catalog
        self._extents = extents
        self._lock = threading.Lock()
        self._sessions: dict[tuple[str, int], Session] = {}
        self._readers: dict[int, int] = {}
        self._turn = 0
        self._retired: list[tuple[int, str, int]] = []

    def plan(self, database: str, sql: str, memory_bytes: int | None = None) -> DataFrame:
        """The plan of a query, to be run inside ``reading``.

        Raises:
            EngineError: 404 for an unknown or empty database, before the query is looked at; 400
                when the query does not parse or plan.
        """
        tables = self.tables(database)
        return self._session(database, memory_bytes).plan(tables, sql)

    @contextmanager
    def reading(self) -> Generator[None]:
        """While the block runs, no extent that is visible now goes away."""
        with self._lock:
            turn = self._turn
            self._readers[turn] = self._readers.get(turn, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._readers[turn] -= 1
                if not self._readers[turn]:
                    del self._readers[turn]
            self._purge()

    def tables(self, database: str) -> dict[str, Table]:
        """The tables of a database.

        Raises:
            EngineError: 404 when there are none.
        """
        tables = self._catalog.tables(database)
        if tables is None:
            raise EngineError(404, "database_not_found", f"database not found: {database}")
        if not tables:
            raise EngineError(404, "database_empty", f"database has no tables: {database}")
        return tables

    def retire(self, table_id: str, extent_ids: frozenset[int]) -> None:
        """Remove extents as soon as nobody reads them any more."""
        with self._lock:
            self._turn += 1
            self._retired += [(self._turn, table_id, extent_id) for extent_id in extent_ids]
        self._purge()

    def _purge(self) -> None:
        with self._lock:
            oldest = min(self._readers, default=self._turn)
            gone = [entry for entry in self._retired if entry[0] <= oldest]
            self._retired = [entry for entry in self._retired if entry[0] > oldest]
        for _, table_id, extent_id in gone:
            self._extents.remove(table_id, extent_id)

    def _session(self, database: str, memory_bytes: int | None) -> Session:
        budget = memory_bytes or self._config.limits.memory_bytes
        with self._lock:
            if (session := self._sessions.pop((database, budget), None)) is None:
                session = Session(self._config, self._extents, budget)
            self._sessions[database, budget] = session  # the last one used comes last
            if len(self._sessions) > MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            return session
