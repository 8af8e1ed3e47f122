"""Talking Bolt: two drivers on one database, managed transactions only, errors of our own.

Every write runs in a managed transaction: the embedded server commits an auto-commit statement row
by row, so a failed one would leave half of its rows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, TypeVar, cast
from urllib.parse import urlsplit

from neo4j import (
    READ_ACCESS,
    AsyncDriver,
    AsyncGraphDatabase,
    AsyncManagedTransaction,
    AsyncResult,
    NotificationMinimumSeverity,
    Record,
)
from neo4j.exceptions import (
    AuthError,
    ConfigurationError,
    ConstraintError,
    DriverError,
    Neo4jError,
)

from agentcy_ray.core.errors import (
    AgentcyError,
    ConfigError,
    EngineError,
    QueryTimeoutError,
    StorageFullError,
    StoreUnavailableError,
)
from agentcy_ray.stores.endpoints import Endpoints

_T = TypeVar("_T")
Params = Mapping[str, Any]

WRITE_ATTEMPTS = 6
CONNECT_SECS = 10.0
SCHEMES = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")
_TOO_BIG = ("MemoryPoolOutOfMemory", "OutOfMemory", "Java heap space", "message too large")
_UNEXPLAINED = "Error executing Cypher command"


class TooBigError(Exception):
    """A transaction did not fit into a message or the server's memory; a smaller one may."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What differs between the servers that speak Bolt."""

    agent: str
    text_index: bool
    """Whether it has indexes that serve ``CONTAINS``."""
    shortest_path_filters: bool
    """Whether ``shortestPath`` heeds ``WHERE`` while it searches."""

    @classmethod
    def of(cls, agent: str) -> Traits:
        """The traits of the server that calls itself ``agent``."""
        embedded = "ArcadeDB" in agent
        return cls(agent, text_index=not embedded, shortest_path_filters=not embedded)


class Bolt:
    """One graph database: a driver that writes, and one whose user may only read."""

    def __init__(self, writer: AsyncDriver, reader: AsyncDriver, database: str) -> None:
        self._writer = writer
        self._reader = reader
        self._database = database
        self._traits: Traits | None = None

    @classmethod
    def open(cls, endpoints: Endpoints) -> Bolt:
        """Make the drivers; they connect at first use.

        Raises:
            ConfigError: NEO4J_URI is not an address of a Bolt server.
        """
        writer = _driver(endpoints, endpoints.neo4j_user, endpoints.neo4j_password)
        reader = writer
        name = endpoints.neo4j_reader_user
        if name is not None and name != endpoints.neo4j_user:
            reader = _driver(endpoints, name, endpoints.neo4j_reader_password or "")
        return cls(writer, reader, endpoints.neo4j_database)

    async def traits(self) -> Traits:
        """What the server is like; asked once."""
        if self._traits is None:
            async with translated():
                info = await self._writer.get_server_info()
            self._traits = Traits.of(info.agent)
        return self._traits

    async def read(self, text: str, params: Params | None = None) -> list[Record]:
        """All rows of a read; for bounded results."""

        async def work(transaction: AsyncManagedTransaction) -> list[Record]:
            return [record async for record in await run(transaction, text, params)]

        async with translated(), self._reader.session(
            database=self._database, default_access_mode=READ_ACCESS
        ) as session:  # fmt: skip
            return await session.execute_read(work)

    @asynccontextmanager
    async def cursor(
        self, text: str, params: Params, *, timeout_secs: float | None = None
    ) -> AsyncGenerator[AsyncResult]:
        """Rows of one read as they come; leaving early tells the server to stop sending."""
        async with translated(), self._reader.session(
            database=self._database, default_access_mode=READ_ACCESS
        ) as session:  # fmt: skip
            transaction = await session.begin_transaction(timeout=timeout_secs)
            async with transaction:
                yield await transaction.run(cast("LiteralString", text), dict(params))

    async def write(self, work: Callable[[AsyncManagedTransaction], Awaitable[_T]]) -> _T:
        """Run ``work`` in a managed transaction, again when it lost a race.

        Raises:
            TooBigError: the transaction was too big.
            StoreUnavailableError, StorageFullError, EngineError: see ``translated``.
        """

        async def guarded(transaction: AsyncManagedTransaction) -> _T:
            try:
                return await work(transaction)
            except Neo4jError as error:
                if too_big(error):  # the driver would repeat the same transaction
                    raise TooBigError from error
                raise

        for attempt in range(1, WRITE_ATTEMPTS + 1):
            try:
                async with self._writer.session(database=self._database) as session:
                    return await session.execute_write(guarded)
            except (Neo4jError, DriverError) as error:
                if isinstance(error, Neo4jError) and too_big(error):
                    raise TooBigError from error
                if attempt == WRITE_ATTEMPTS or not lost_race(error):
                    raise translate(error) from error
            await asyncio.sleep(random.uniform(0.005, 0.02) * 2**attempt)
        raise AssertionError("unreachable: the last attempt raises")

    async def ping(self) -> None:
        """Ask for one row in an auto-commit transaction, which the driver does not repeat.

        Raises:
            StoreUnavailableError: the server does not answer within some seconds.
        """
        async with translated(), self._reader.session(database=self._database) as session:
            try:
                async with asyncio.timeout(CONNECT_SECS):
                    await (await session.run("RETURN 1")).consume()
            except TimeoutError:
                raise StoreUnavailableError(
                    f"the graph server did not answer within {CONNECT_SECS:.0f} s; "
                    "see `agentcy doctor`"
                ) from None

    async def execute(self, text: str, params: Params | None = None) -> None:
        """One statement whose rows do not matter, such as a change of the schema."""

        async def work(transaction: AsyncManagedTransaction) -> None:
            await (await run(transaction, text, params)).consume()

        await self.write(work)

    async def close(self) -> None:
        """Close both drivers."""
        await self._writer.close()
        if self._reader is not self._writer:
            await self._reader.close()


async def run(
    transaction: AsyncManagedTransaction, text: str, params: Params | None = None
) -> AsyncResult:
    """Run a statement that we composed; the driver's types only know literal ones."""
    return await transaction.run(cast("LiteralString", text), dict(params or {}))


def too_big(error: Neo4jError) -> bool:
    """Whether the server could not take so much at once."""
    told = f"{error.code} {error.message}"
    return any(sign in told for sign in _TOO_BIG)


def lost_race(error: Neo4jError | DriverError) -> bool:
    """Whether another writer got there first, beyond what the driver itself repeats.

    Two writers that create one id violate its uniqueness; two that bring a new label at the same
    moment fail on the embedded server with a semantic error that names no reason.
    """
    if isinstance(error, ConstraintError):
        return True
    message = (error.message or "") if isinstance(error, Neo4jError) else ""
    return message.startswith(_UNEXPLAINED)


def translate(error: Neo4jError | DriverError) -> AgentcyError:
    """The error of ours for one of the driver's."""
    if isinstance(error, AuthError):
        return ConfigError(
            "the graph server refused the credentials; check NEO4J_USER and NEO4J_PASSWORD"
        )
    if isinstance(error, ConfigurationError):
        return ConfigError(f"the graph server cannot be used as configured: {error}")
    if isinstance(error, DriverError):
        return StoreUnavailableError(
            f"the graph server does not answer ({error}); see `agentcy doctor`"
        )
    code, message = error.code or "", error.message or str(error)
    if "TransactionTimedOut" in code:
        return QueryTimeoutError("the graph query ran past its time limit; narrow it")
    if "No space left" in message:
        return StorageFullError("no space is left for the graph; free some and try again")
    if error.is_retryable():
        return StoreUnavailableError(
            f"the graph server is busy ({message}); try again", engine=code
        )
    if message.startswith(_UNEXPLAINED):
        message = (
            f"{' '.join(message.split())[:200]} (it names no reason; one is a label that is also "
            "the name of an edge type)"
        )
    return EngineError(f"the graph server failed: {message}", engine_code=code)


@asynccontextmanager
async def translated() -> AsyncGenerator[None]:
    """Turn errors of the driver into ours.

    Raises:
        ConfigError: wrong credentials or address.
        StoreUnavailableError: the server is away or busy.
        StorageFullError: its disk is full.
        QueryTimeoutError: a statement passed its time limit.
        EngineError: anything else that the server reports.
    """
    try:
        yield
    except (Neo4jError, DriverError) as error:
        raise translate(error) from error
    except OSError as error:
        raise StoreUnavailableError(f"the graph server does not answer: {error}") from error


def _driver(endpoints: Endpoints, user: str, password: str) -> AsyncDriver:
    if urlsplit(endpoints.neo4j_uri).scheme not in SCHEMES:
        raise ConfigError(f"NEO4J_URI must start with one of {', '.join(SCHEMES)} and ://")
    try:
        return AsyncGraphDatabase.driver(
            endpoints.neo4j_uri,
            auth=(user, password),
            user_agent="agentcy-ray",
            connection_timeout=CONNECT_SECS,
            connection_acquisition_timeout=30.0,
            max_transaction_retry_time=15.0,
            initial_retry_delay=0.05,
            notifications_min_severity=NotificationMinimumSeverity.OFF,
            telemetry_disabled=True,
        )
    except (ConfigurationError, ValueError) as error:
        raise ConfigError(f"NEO4J_URI is not an address of a Bolt server: {error}") from error
