"""What kyma says its tables are: names and column types by database."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agentcy_ray.context.kyma.http import KymaHttp

KEPT_SECS = 30.0
"""How long an answer is used for writing. A new table has the default shape, which is known."""

Tables = dict[str, dict[str, str]]


class Catalog:
    """Reads ``/v1/catalog/schema``, which kyma itself keeps for 5 s."""

    def __init__(self, http: KymaHttp, now: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._now = now
        self._databases: dict[str, Tables] = {}
        self._read_at: float | None = None

    async def tables(self, database: str) -> Tables:
        """Tables of a database with their column types, read now; empty when there is none.

        Raises:
            EngineRefusedError, EngineBusyError, EngineError, StoreUnavailableError: as ``get``.
        """
        answer: Any = await self._http.get("/v1/catalog/schema")
        self._databases = {
            str(found["name"]): {
                str(table["name"]): {str(c["name"]): str(c["type"]) for c in table["columns"]}
                for table in found["tables"]
            }
            for found in answer.get("databases", [])
        }
        self._read_at = self._now()
        return self._databases.get(database, {})

    async def columns(self, database: str, table: str) -> dict[str, str]:
        """Column types of a table as read within ``KEPT_SECS``; empty when there is none."""
        if self._read_at is None or self._now() - self._read_at > KEPT_SECS:
            await self.tables(database)
        return self._databases.get(database, {}).get(table, {})

    def forget(self, database: str) -> None:
        """Read anew at the next question."""
        self._databases.pop(database, None)
        self._read_at = None
