"""Reading Arrow from kyma over Flight: ``do_get`` with a JSON ticket, and nothing else.

Flight blocks, so each stream is read on a thread, ahead of the caller. Whether a kyma has Flight at
all is found by asking, remembered, and asked again later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import orjson
import pyarrow as pa
import pyarrow.flight as flight

from agentcy_ray.context.kyma.address import KymaAddress
from agentcy_ray.context.kyma.ahead import Ahead
from agentcy_ray.context.kyma.faults import EXCERPT, too_slow
from agentcy_ray.core.errors import (
    EngineError,
    EngineRefusedError,
    MissingDataError,
    StoreUnavailableError,
)

PROBE_SECS = 3.0
ABSENT_SECS = 60.0
"""How long an absent Flight is taken for absent."""
STREAMS = 16
"""Streams that are read at once; further ones wait."""
_EMPTY = "Server never sent a data message"
"""kyma's encoder sends nothing at all for a result without batches; pyarrow says it this way."""

_T = TypeVar("_T")


class FlightAwayError(Exception):
    """There is no Flight to read from; take HTTP. Raised before the first batch only."""


class FlightDoor:
    """The Flight side of one kyma."""

    def __init__(self, address: KymaAddress, now: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._now = now
        self._client: flight.FlightClient | None = None
        self._absent_until = 0.0
        self._opening = asyncio.Lock()
        self._threads = ThreadPoolExecutor(STREAMS, "kyma-flight")

    async def present(self) -> bool:
        """Whether Flight answers; asked once, an absent one again after ``ABSENT_SECS``."""
        return await self._open() is not None

    async def batches(
        self, database: str, text: str, *, language: str = "sql", timeout_ms: int
    ) -> AsyncGenerator[pa.RecordBatch]:
        """Batches of a result as they come; an empty result may come without any.

        Raises:
            FlightAwayError: there is no Flight; nothing was read.
            MissingDataError: no such database, or it is empty.
            EngineRefusedError: the text does not plan, which an unknown table also causes.
            QueryTimeoutError: past ``timeout_ms``, counted to the last batch.
            StoreUnavailableError, EngineError: the connection broke, or kyma failed, on the way.
        """
        client = await self._open()
        if client is None:
            raise FlightAwayError
        ticket = flight.Ticket(
            orjson.dumps({"database": database, "query": text, "language": language})
        )
        options = self._options(timeout_ms / 1000)
        ahead = Ahead(self._threads, partial(client.do_get, ticket, options))
        started = False
        try:
            while (batch := await ahead.next()) is not None:
                started = True
                yield batch
        except flight.FlightUnavailableError as error:
            self._forget()
            if not started:
                raise FlightAwayError from error
            raise StoreUnavailableError(
                "the Flight stream of kyma broke off; repeat the query", store="kyma"
            ) from error
        except flight.FlightTimedOutError as error:
            raise too_slow(timeout_ms) from error
        except pa.ArrowKeyError as error:
            raise MissingDataError(
                f"kyma holds nothing in {database!r} yet", database=database
            ) from error
        except pa.ArrowInvalid as error:
            raise EngineRefusedError(
                f"kyma refuses the query: {self._said(error)}", status=400, engine_code="flight"
            ) from error
        except (flight.FlightError, pa.ArrowException) as error:
            if started or not _nothing_was_sent(error):
                raise EngineError(f"kyma failed while it answered: {self._said(error)}") from error
        finally:
            await ahead.close()

    async def close(self) -> None:
        """Close the connection; streams that still run end."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _thread(self, work: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def _open(self) -> flight.FlightClient | None:
        if self._client is not None or self._now() < self._absent_until:
            return self._client
        async with self._opening:
            if self._client is None and self._now() >= self._absent_until:
                for url in self._address.flight_candidates:
                    if (client := await self._thread(self._answering, url)) is not None:
                        self._client = client
                        break
                else:
                    self._absent_until = self._now() + ABSENT_SECS
            return self._client

    def _answering(self, url: str) -> flight.FlightClient | None:
        """A client to ``url`` when a kyma answers there."""
        direct = [("grpc.enable_http_proxy", 0)] if self._address.loopback else None
        client = flight.connect(url, generic_options=direct)
        ticket = flight.Ticket(b'{"database":"default","query":"SELECT 1","language":"sql"}')
        try:
            client.do_get(ticket, self._options(PROBE_SECS)).read_all()
        except pa.ArrowKeyError:
            return client  # it knows no such database, or the database is empty
        except pa.ArrowException as error:
            if not _nothing_was_sent(error):
                client.close()
                return None
        return client

    def _options(self, timeout_secs: float) -> flight.FlightCallOptions:
        # kyma asks for no token here; a proxy in front of it may.
        headers = [(k.encode(), v.encode()) for k, v in self._address.authorization.items()]
        return flight.FlightCallOptions(timeout=timeout_secs, headers=headers)

    def _forget(self) -> None:
        # Not closed: other streams may still read from it.
        self._client, self._absent_until = None, 0.0

    def _said(self, error: Exception) -> str:
        message = str(error).partition(". gRPC client debug context")[0].partition(". Detail: ")[0]
        return self._address.without_token(message)[:EXCERPT]


def _nothing_was_sent(error: Exception) -> bool:
    # Real failures carry the sentence too, behind what the server said.
    return isinstance(error, flight.FlightInternalError) and str(error).startswith(_EMPTY)
