"""Flight servers for tests: one that streams, one that is silent as kyma's encoder can be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import orjson
import pyarrow as pa
import pyarrow.flight as flight

BATCH = pa.record_batch({"id": ["a", "b"], "n": pa.array([1, 2], pa.int64())})


class ScriptedFlight(flight.FlightServerBase):
    """Answers by the text of the query."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.tickets: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        asked = orjson.loads(ticket.ticket)
        self.tickets.append(asked)
        match asked["query"]:
            case "missing database":
                raise KeyError("unknown database")
            case "wrong":
                raise pa.ArrowInvalid("SQL: no such function")
            case "fails":
                raise flight.FlightInternalError("out of memory")
            case "gone":
                raise flight.FlightUnavailableError("shutting down")
            case text:
                return flight.GeneratorStream(BATCH.schema, self._batches(text))

    def _batches(self, text: str) -> Iterator[pa.RecordBatch]:
        yield BATCH
        if text == "breaks off":
            raise flight.FlightInternalError("disk on fire")
        if text == "slow":
            self.go_on.wait(30)
        yield BATCH


class _Silence(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(()))


@contextmanager
def silent_flight() -> Iterator[str]:
    """A server whose streams end without a message, schema included."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Silence(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
