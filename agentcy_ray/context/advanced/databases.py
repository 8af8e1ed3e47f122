"""Which kyma database holds whose graph: one for each organisation, so none can meet another's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg

from agentcy_ray.core.errors import StoreUnavailableError

_FIRST = "SELECT id FROM organizations ORDER BY created_at, id LIMIT 1"
CONNECT_SECS = 10.0


class Databases:
    """Names of the databases: the first organisation has ``name``, others ``name_<id>``.

    Which one is first is asked once; an organisation is never removed from its table, so that
    cannot change.
    """

    def __init__(self, name: str, first: Callable[[], Awaitable[UUID | None]]) -> None:
        self._name = name
        self._ask = first
        self._first: UUID | None = None
        self._asking = asyncio.Lock()

    async def of(self, org_id: UUID) -> str:
        """The database of an organisation.

        Raises:
            StoreUnavailableError: Postgres, which knows who is first, does not answer.
        """
        if self._first is None:
            async with self._asking:
                if self._first is None:
                    self._first = await self._ask()
        return self._name if org_id == self._first else f"{self._name}_{org_id.hex}"


def first_organisation(database_url: str) -> Callable[[], Awaitable[UUID | None]]:
    """Asks Postgres for the organisation that was made first; None when there is none yet."""

    async def ask() -> UUID | None:
        try:
            connection = await asyncpg.connect(
                database_url, timeout=CONNECT_SECS, statement_cache_size=0
            )
            try:
                async with connection.transaction(readonly=True):
                    await connection.execute("SET LOCAL ROLE agentcy_system")
                    return await connection.fetchval(_FIRST)
            finally:
                await connection.close(timeout=CONNECT_SECS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreUnavailableError(
                f"Postgres does not say which organisation was first: {error}; check DATABASE_URL"
            ) from error

    return ask
