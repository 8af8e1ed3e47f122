"""The Flight side: ``do_get`` with a JSON ticket, and nothing else.

kyma asks for no token here; an embedded engine may be told to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa

from agentcy_ray.devkyma.arrow import fl
from agentcy_ray.devkyma.auth import AuthError, require
from agentcy_ray.devkyma.config import Config, Role
from agentcy_ray.devkyma.engine import Engine
from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.faults import Faults
from agentcy_ray.devkyma.pull import Puller, StoppedError
from agentcy_ray.devkyma.queries import Budgets, QueryRequest, plan_query
from agentcy_ray.devkyma.views import without_views

LANGUAGES = frozenset({"sql", "kql"})


class FlightServer(fl.FlightServerBase):
    """Answers as soon as it is made, on its own threads; ``shutdown`` ends it.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, engine: Engine, faults: Faults) -> None:
        config = engine.config
        guards: dict[str, Any] = {}
        if config.flight_auth:
            guards["bearer"] = BearerGuard(config)
        try:
            super().__init__(f"grpc://127.0.0.1:{config.flight_port}", middleware=guards)
        except pa.ArrowException as error:
            raise OSError(f"the Flight port {config.flight_port} is taken") from error
        self._engine = engine
        self._faults = faults
        self._limits = config.limits
        self._puller = Puller()

    def shutdown(self) -> None:
        """End; queries that still run end too."""
        super().shutdown()
        self._puller.close()

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Stream the batches of a query.

        Raises:
            pa.ArrowInvalid: ticket, language, or a query that does not plan.
            pa.ArrowKeyError: no such database, or nothing in it.
            fl.FlightInternalError: the query fails, perhaps on the way.
        """
        if self._faults.flight_down:
            raise fl.FlightUnavailableError("down on demand")
        request = self._request(bytes(ticket.ticket))
        reading = self._engine.sessions.reading()
        reading.__enter__()
        try:
            plan = plan_query(self._engine, request)
            schema = without_views(plan.schema())
            stream = plan.execute_stream()
        except Exception as error:
            reading.__exit__(None, None, None)
            raise _status(error) from error
        return fl.GeneratorStream(schema, self._messages(context, schema, stream, reading))

    def _messages(
        self, context: Any, schema: pa.Schema, stream: Any, reading: Any
    ) -> Iterator[pa.RecordBatch]:
        limit_ms = self._limits.wall_clock_ms
        try:
            for batch in self._puller.batches(stream, context.is_cancelled, limit_ms):
                delay = self._faults.flight_delay_ms
                if delay:
                    time.sleep(delay / 1000)
                yield from split(batch.to_pyarrow().cast(schema), self._limits.flight_message_bytes)
        except Exception as error:
            raise _status(error) from error
        finally:
            reading.__exit__(None, None, None)

    def _request(self, ticket: bytes) -> QueryRequest:
        try:
            asked: Any = orjson.loads(ticket)
        except orjson.JSONDecodeError as error:
            raise pa.ArrowInvalid(f"ticket is not JSON: {error}") from None
        if not isinstance(asked, dict):
            raise pa.ArrowInvalid("ticket is not a JSON object")
        database, query, language, kind = (
            str(asked.get(name, default))
            for name, default in (
                ("database", "default"),
                ("query", ""),
                ("language", "sql"),
                ("kind", "query"),
            )
        )
        if language not in LANGUAGES:
            raise pa.ArrowInvalid(f"unknown language: {language}")
        if kind != "query":
            raise pa.ArrowInvalid(f"unknown kind: {kind}")
        budgets = Budgets(self._limits.wall_clock_ms, self._limits.memory_bytes)
        return QueryRequest(database, language, query.strip(), budgets)


class BearerGuard(fl.ServerMiddlewareFactory):
    """Asks for a token of at least the role read in the call's ``authorization`` metadata."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._tokens = config.tokens

    def start_call(self, info: Any, headers: Mapping[str, list[str]]) -> None:
        """Let a call in.

        Raises:
            fl.FlightUnauthenticatedError: the token is missing or unknown.
        """
        given = next(iter(headers.get("authorization", [])), None)
        try:
            require(self._tokens, given, Role.READ)
        except AuthError as error:
            raise fl.FlightUnauthenticatedError(error.text) from None


def split(batch: pa.RecordBatch, message_bytes: int) -> Iterator[pa.RecordBatch]:
    """A batch in slices of about ``message_bytes``."""
    parts = max(1, -(-batch.nbytes // message_bytes))
    rows = max(1, -(-batch.num_rows // parts))
    for start in range(0, max(1, batch.num_rows), rows):
        yield batch.slice(start, rows)


def _status(error: Exception) -> Exception:
    """The exception that Flight turns into the status of the contract."""
    if isinstance(error, StoppedError):
        return fl.FlightInternalError("the query was stopped: its caller left, or its time is over")
    if isinstance(error, EngineError):
        if error.status == 404:
            return pa.ArrowKeyError(error.message)
        if error.status < 500 and error.status != 429:
            return pa.ArrowInvalid(error.message)
        return fl.FlightInternalError(error.message)
    text = str(error).removeprefix("DataFusion error: ")
    if text.startswith("Error during planning"):
        return pa.ArrowInvalid(text)
    return fl.FlightInternalError(text)
