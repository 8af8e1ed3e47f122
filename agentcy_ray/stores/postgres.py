"""Postgres: the pool, and the only two ways to reach a row.

``tenant(org_id)`` opens a transaction as role ``agentcy_app`` bound to one organisation;
``system()`` opens one as ``agentcy_system`` for work that belongs to no request. Both role and
tenant are transaction-local, so a pooled connection carries nothing over to its next user, and a
statement outside of either meets no row at all: the login role has no policy on any tenant table.
``owner()`` is that role, for the upkeep of tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson

from agentcy_ray.core.errors import StorageFullError, StoreUnavailableError

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy


# The path is said too, temporary tables last: what a transaction makes for itself never stands in
# for a table of the schema, and no schema that bears a role's name is looked into.
_PATH = "set_config('search_path', 'public, pg_temp', true)"
_BIND_TENANT = (
    "BEGIN; SELECT set_config('role', 'agentcy_app', true), set_config('app.org_id', '{}', true), "
    + _PATH
)
_BIND_SYSTEM = f"BEGIN; SELECT set_config('role', 'agentcy_system', true), {_PATH}"
REST_SECS = 5.0
"""How long a connection may take to end its transaction once its user has gone."""
_FORGET_SESSION = "SELECT pg_advisory_unlock_all(); RESET ALL"
_AWAY = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
_LOST = (
    ConnectionError,
    asyncpg.PostgresError,
)
"""Of those, what means a lost connection even when the caller's statement met it."""


class Database:
    """A pool of connections to one database. Open it with ``open_database``."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def tenant(self, org_id: UUID) -> AsyncGenerator[PoolConnectionProxy[asyncpg.Record]]:
        """A transaction that sees the rows of ``org_id`` only; commits on leaving without error.

        Raises:
            StoreUnavailableError: Postgres does not answer; nothing was committed.
            StorageFullError: the server's disk is full; nothing was committed.
        """
        # A UUID object cannot hold a quote, so the text is safe to put into the statement; two
        # statements in one message save a round trip for each transaction.
        async with self._transaction(_BIND_TENANT.format(UUID(int=org_id.int))) as connection:
            yield connection

    @asynccontextmanager
    async def system(self) -> AsyncGenerator[PoolConnectionProxy[asyncpg.Record]]:
        """A transaction over all tenants; for code that takes no request input into its SQL."""
        async with self._transaction(_BIND_SYSTEM) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, begin: str) -> AsyncGenerator[PoolConnectionProxy[asyncpg.Record]]:
        own: BaseException | None = None
        lost = False
        try:
            async with self._pool.acquire() as connection:
                try:
                    try:
                        await connection.execute(begin)
                        try:
                            yield connection
                        except BaseException as error:
                            own = error
                            raise
                        await connection.execute("COMMIT")
                    except BaseException:
                        # Also when it was cancelled while it began or committed: it may be open.
                        if not _lost(connection):
                            await _at_rest(connection, "ROLLBACK")
                        raise
                except asyncpg.InterfaceError:
                    lost = _lost(connection)
                    raise
                except asyncpg.InternalClientError as error:
                    # The server's farewell came between two statements, and the library waits for
                    # more of it; the connection is of no use any more.
                    connection.terminate()
                    raise _away() from error
        except asyncpg.InterfaceError as error:
            # The library's word for a closed connection, and for its own misuse: too few
            # arguments, two statements at once. Those are faults of ours and keep their name.
            if lost or self._pool.is_closing():
                raise _away() from error
            raise
        except asyncpg.DiskFullError as error:
            raise _full() from error
        except _AWAY as error:
            if error is own and not isinstance(error, _LOST):
                raise  # the caller's own trouble with a file or a time limit, not ours
            raise _away() from error

    @asynccontextmanager
    async def owner(self) -> AsyncGenerator[PoolConnectionProxy[asyncpg.Record]]:
        """A connection in no transaction, for what runs in none: VACUUM, CREATE INDEX CONCURRENTLY.

        Settings and advisory locks of its session end with it.

        Raises:
            StoreUnavailableError: Postgres does not answer.
            StorageFullError: the server's disk is full.
        """
        own: BaseException | None = None
        lost = False
        try:
            async with self._pool.acquire() as connection:
                try:
                    yield connection
                except BaseException as error:
                    own = error
                    raise
                finally:
                    lost = _lost(connection)
                    if not lost:
                        await _at_rest(connection, _FORGET_SESSION)
        except asyncpg.InterfaceError as error:
            if lost or self._pool.is_closing():
                raise _away() from error
            raise
        except asyncpg.DiskFullError as error:
            raise _full() from error
        except _AWAY as error:
            if error is own and not isinstance(error, _LOST):
                raise  # the caller's own trouble with a file or a time limit, not ours
            raise _away() from error

    async def ping(self) -> str:
        """The server's version text.

        Raises:
            StoreUnavailableError: Postgres does not answer.
        """
        try:
            return str(await self._pool.fetchval("SHOW server_version", timeout=5))
        except (*_AWAY, asyncpg.InterfaceError) as error:
            raise _away() from error

    @property
    def in_use(self) -> int:
        """Connections that are lent out now."""
        return self._pool.get_size() - self._pool.get_idle_size()

    async def close(self) -> None:
        """Give all connections back; waits 5 s for those lent out, then cuts them."""
        try:
            await asyncio.wait_for(self._pool.close(), 5)
        except TimeoutError:
            self._pool.terminate()


async def open_database(url: str, *, pool_max: int = 20, statement_cache: bool = True) -> Database:
    """Connect to ``url`` (any libpq connection string, TLS options included).

    Args:
        url: where the database is.
        pool_max: connections that this process may hold.
        statement_cache: False behind a transaction-mode pooler.

    Raises:
        StoreUnavailableError: no connection within 30 s, or the credentials are refused.
    """
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=pool_max,
            statement_cache_size=256 if statement_cache else 0,
            init=set_codecs,
            reset=_nothing_to_reset,
            timeout=30,
            command_timeout=None,
            server_settings={"application_name": "agentcy"},
        )
    except (*_AWAY, asyncpg.InterfaceError, asyncpg.PostgresError, ValueError) as error:
        raise StoreUnavailableError(
            f"cannot connect to Postgres: {error}; check DATABASE_URL", store="postgres"
        ) from error
    return Database(pool)


async def _at_rest(connection: PoolConnectionProxy[asyncpg.Record], statement: str) -> None:
    """Run the last statement on a connection before it goes back, to its end.

    A caller that is cancelled meanwhile waits for it too: the pool would meet a connection that is
    still at work. One that does not come to rest is cut.
    """
    task = asyncio.ensure_future(connection.execute(statement))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=REST_SECS)
        if not task.done() or task.cancelled() or task.exception() is not None:
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            connection.terminate()
        raise


def _lost(connection: PoolConnectionProxy[asyncpg.Record]) -> bool:
    """Whether a connection that we hold has ended: the pool then takes it back by itself."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


def _away() -> StoreUnavailableError:
    return StoreUnavailableError(
        "Postgres does not answer; `agentcy doctor` says which server and why", store="postgres"
    )


def _full() -> StorageFullError:
    return StorageFullError(
        "the database server has no space left; free some, then repeat the call: "
        "what was committed before is intact"
    )


async def _nothing_to_reset(connection: Any) -> None:
    """Role and tenant end with the transaction; asyncpg's own reset costs a round trip each."""


async def set_codecs(connection: Any) -> None:
    """Make JSON columns Python values, and vectors numpy arrays where pgvector is installed."""
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind,
            schema="pg_catalog",
            encoder=_json_text,
            decoder=orjson.loads,
        )
    if await connection.fetchval("SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
        from pgvector.asyncpg import register_vector

        await register_vector(connection)


def _json_text(value: Any) -> str:
    return orjson.dumps(value).decode()
