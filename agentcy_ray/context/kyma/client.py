"""``KymaClient``: everything that the product asks of a kyma, over HTTP and Flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import pyarrow as pa

from agentcy_ray.context.kyma.address import KymaAddress
from agentcy_ray.context.kyma.catalog import Catalog, Tables
from agentcy_ray.context.kyma.decoder import Fit, decode, fitting
from agentcy_ray.context.kyma.flight import FlightAwayError, FlightDoor
from agentcy_ray.context.kyma.http import Budgets, KymaHttp, Patience
from agentcy_ray.context.kyma.missing import tables_of
from agentcy_ray.context.kyma.probe import Probe, probe
from agentcy_ray.context.kyma.writer import Ingested, KymaWriter, Sink
from agentcy_ray.core.errors import (
    EngineError,
    EngineRefusedError,
    MissingDataError,
    QueryRejectedError,
)
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.stores.egress import Guard

SLICE_BYTES = 8 * 1024 * 1024
MAX_IN_FLIGHT = 4
_NO_SUCH = {"sql_parse_error", "kql_parse_error", "flight"}


@dataclass(frozen=True)
class NativeAnswer:
    """kyma's own answer, as it came; ``rows`` as kyma counted them."""

    body: bytes
    media_type: str
    rows: int | None

    def records(self) -> list[dict[str, Any]]:
        """The rows of an NDJSON answer, or the one object of another."""
        return [orjson.loads(line) for line in self.body.splitlines() if line.strip()]


class KymaClient:
    """One kyma. Nothing is connected to before the first call; for one event loop."""

    def __init__(self, http: KymaHttp, door: FlightDoor, catalog: Catalog, sink: Sink) -> None:
        self._http = http
        self._door = door
        self._catalog = catalog
        self._sink = sink
        self._probe: Probe | None = None

    @classmethod
    def open(
        cls,
        address: KymaAddress,
        *,
        slice_bytes: int = SLICE_BYTES,
        max_in_flight: int = MAX_IN_FLIGHT,
        metrics: Metrics | None = None,
        patience: Patience | None = None,
        sink: Sink | None = None,
        guard: Guard | None = None,
    ) -> KymaClient:
        """A client on an address.

        Args:
            address: of HTTP and Flight, with the token.
            slice_bytes: the most bytes of one ingest request.
            max_in_flight: ingest requests under way per table.
            metrics: where slices, bytes, rows and lag are counted.
            patience: how often and after which waits requests are repeated.
            sink: where batches go in place of a writer of this process.
            guard: of the way to kyma; None = of settings without a proxy.
        """
        http = KymaHttp(address, patience or Patience(), guard=guard)
        catalog = Catalog(http)
        writer = sink or KymaWriter(
            http, catalog, metrics or Metrics(), slice_bytes=slice_bytes,
            max_in_flight=max_in_flight,
        )  # fmt: skip
        return cls(http, FlightDoor(address), catalog, writer)

    async def read(
        self, database: str, sql: str, *, timeout_ms: int, schema: pa.Schema | None = None
    ) -> pa.Table:
        """The whole result of a SQL query.

        Over Flight the columns have kyma's types. Over HTTP types are inferred, columns are in
        alphabetical order and those without a value are absent; over both, a result without rows
        may have no columns. With ``schema`` the answer has exactly its columns, in either case.

        Raises:
            MissingDataError: the database, or a table of the query, does not exist yet.
            EngineRefusedError: kyma refuses the token or the text.
            QueryTimeoutError, QueryTooCostlyError: a budget is used up.
            EngineBusyError, StoreUnavailableError, EngineError: it sheds load, is away, fails.
        """
        batches: list[pa.RecordBatch] = []
        stream = self.batches(database, sql, timeout_ms=timeout_ms, schema=schema)
        async with aclosing(stream) as parts:
            async for batch in parts:
                batches.append(batch)
        if not batches:
            return (schema or pa.schema([])).empty_table()
        return pa.Table.from_batches(batches)

    async def batches(
        self, database: str, sql: str, *, timeout_ms: int, schema: pa.Schema | None = None
    ) -> AsyncGenerator[pa.RecordBatch]:
        """The batches of a SQL query as they come; see ``read``.

        ``timeout_ms`` counts to the last batch, the caller's own time included.
        """
        try:
            async with aclosing(self._door.batches(database, sql, timeout_ms=timeout_ms)) as parts:
                fit: Fit | None = None
                async for batch in parts:
                    if fit is None and schema is not None:
                        fit = fitting(batch.schema, schema)
                    yield batch if fit is None else _fitted(batch, fit)
            return
        except FlightAwayError:
            pass  # then over HTTP
        except EngineRefusedError as error:
            await self._explain(database, sql, error)
            raise
        for batch in await self._over_http(database, sql, timeout_ms, schema):
            yield batch

    async def native(
        self,
        database: str,
        language: Literal["sql", "kql", "cypher"],
        text: str,
        budgets: Budgets,
        *,
        graph: str | None = None,
    ) -> NativeAnswer:
        """Kyma's own answer to a text in one of its languages, which nobody scopes or rewrites.

        Raises:
            QueryRejectedError: kyma does not take the text; ``details`` hold its code and message.
            Others as ``read``.
        """
        try:
            answer = await self._http.query(
                database, text, language=language, budgets=budgets, graph=graph
            )
        except EngineRefusedError as error:
            if error.details.get("status") != 400:
                raise
            raise QueryRejectedError(
                f"kyma does not take this {language}: {error.details.get('engine_message', '')};"
                " mend the text, it goes there as it stands",
                **error.details,
            ) from error
        return NativeAnswer(answer.body, answer.media_type, answer.rows)

    async def ingest(
        self, database: str, table: str, batch: pa.RecordBatch, *, key_scope: str
    ) -> Ingested:
        """Store a batch; see ``KymaWriter.ingest`` for the whole contract."""
        return await self._sink.ingest(database, table, batch, key_scope=key_scope)

    async def tables(self, database: str) -> Tables:
        """Tables of a database with their column types; empty when there is none."""
        return await self._catalog.tables(database)

    async def probe(self, database: str = "default") -> Probe:
        """What this kyma can do; asked once, what it could not say yet again.

        Raises:
            EngineRefusedError, EngineBusyError, EngineError, StoreUnavailableError: as ``read``.
        """
        if self._probe is None or not self._probe.settled:
            self._probe = await probe(self._http, self._door, database)
        return self._probe

    async def ping(self) -> None:
        """Return when kyma answers.

        Raises:
            StoreUnavailableError: it does not.
        """
        await self._http.get("/health")

    async def close(self) -> None:
        """Give connections back."""
        await self._door.close()
        await self._http.close()

    async def _over_http(
        self, database: str, sql: str, timeout_ms: int, schema: pa.Schema | None
    ) -> list[pa.RecordBatch]:
        try:
            answer = await self._http.query(
                database, sql, language="sql", budgets=Budgets(timeout_ms)
            )
        except EngineRefusedError as error:
            await self._explain(database, sql, error)
            raise
        return decode(answer.body, schema).to_batches()

    async def _explain(self, database: str, sql: str, error: EngineRefusedError) -> None:
        """Tell a table that is not there yet from a text that is wrong: kyma's code is the same.

        Raises:
            MissingDataError: a table of the query does not exist.
        """
        if error.details.get("engine_code") not in _NO_SUCH:
            return
        for table in await asyncio.to_thread(tables_of, sql):
            try:
                await self._http.query(
                    database, f'SELECT 1 FROM "{table}" LIMIT 0', language="sql",
                    budgets=Budgets(10_000),
                )  # fmt: skip
            except EngineRefusedError as absent:
                if absent.details.get("engine_code") in _NO_SUCH:
                    raise MissingDataError(
                        f"kyma has no table {table!r} in {database!r} yet",
                        database=database, table=table,
                    ) from error  # fmt: skip


def _fitted(batch: pa.RecordBatch, fit: Fit) -> pa.RecordBatch:
    try:
        return fit(batch)
    except (pa.ArrowException, ValueError) as error:
        raise EngineError(f"kyma's answer does not fit the query's columns: {error}") from error
