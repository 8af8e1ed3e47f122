"""An organisation's part of kyma: its database, found, made and asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

import pyarrow as pa

from agentcy_ray.context.advanced.databases import Databases
from agentcy_ray.context.advanced.layout import STORED, founding_row
from agentcy_ray.context.engine import Refused, Written
from agentcy_ray.context.kyma.client import KymaClient
from agentcy_ray.context.languages.current import Table
from agentcy_ray.core.errors import MissingDataError

READ_MS = 60_000
"""Limit of the reads that callers set no limit for."""


class Store:
    """Reads and appends of the engine, by organisation."""

    def __init__(self, client: KymaClient, databases: Databases) -> None:
        self.client = client
        self._databases = databases
        self._founded: set[UUID] = set()
        self._founding = asyncio.Lock()

    async def found(self, org_id: UUID) -> str:
        """Make the organisation's tables when they are not there; returns its database."""
        database = await self._databases.of(org_id)
        if org_id in self._founded:
            return database
        async with self._founding:
            if org_id not in self._founded:
                known = await self.client.tables(database)
                for table, columns in STORED.items():
                    if not known.get(table, {}).keys() >= set(columns):
                        await self.client.ingest(
                            database, table, founding_row(table), key_scope="founding"
                        )
                self._founded.add(org_id)
        return database

    async def append(
        self, org_id: UUID, table: Table, rows: pa.RecordBatch, *, key_scope: str
    ) -> int:
        """Add rows; the same rows under the same ``key_scope`` again add nothing."""
        return (await self.put(org_id, table, rows, key_scope=key_scope)).rows

    async def put(
        self, org_id: UUID, table: Table, rows: pa.RecordBatch, *, key_scope: str
    ) -> Written:
        """As ``append``, saying which rows kyma does not take."""
        if not rows.num_rows:
            return Written(rows=0)
        database = await self.found(org_id)
        done = await self.client.ingest(database, table, rows, key_scope=key_scope)
        ids = rows.column("event_id" if table == "context_events" else "id")
        refused = [Refused(id=str(ids[r.row]), reason=r.reason) for r in done.rejected]
        return Written(rows=rows.num_rows - len(refused), refused=tuple(refused))

    async def read(
        self, org_id: UUID, sql: str, schema: pa.Schema, *, timeout_ms: int = READ_MS
    ) -> pa.Table:
        """The answer with the columns of ``schema``; no rows while nothing was written.

        Raises:
            QueryTimeoutError: it ran past ``timeout_ms``.
            StoreUnavailableError, EngineError: kyma does not answer, or refuses.
        """
        database = await self._databases.of(org_id)
        try:
            return await self.client.read(database, sql, timeout_ms=timeout_ms, schema=schema)
        except MissingDataError:
            return schema.empty_table()

    async def batches(
        self, org_id: UUID, sql: str, schema: pa.Schema, *, timeout_ms: int
    ) -> AsyncGenerator[pa.RecordBatch]:
        """Batches of an answer as they come, of the columns of ``schema``. Raises as ``read``."""
        database = await self.found(org_id)  # a count of nothing is 0, and not nothing
        stream = self.client.batches(database, sql, timeout_ms=timeout_ms, schema=schema)
        async with aclosing(stream) as parts:
            async for batch in parts:
                yield batch
