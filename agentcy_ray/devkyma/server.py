"""An engine with both its ports open, on loopback only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from agentcy_ray.devkyma.config import Config
from agentcy_ray.devkyma.engine import Engine
from agentcy_ray.devkyma.faults import Faults
from agentcy_ray.devkyma.flight import FlightServer
from agentcy_ray.devkyma.http import Api
from agentcy_ray.devkyma.upkeep import Upkeep

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running engine is reached, and the engine itself."""

    http_url: str
    flight_url: str
    engine: Engine
    faults: Faults


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: whoever runs the engine decides when it ends."""

    def install_signal_handlers(self) -> None:
        """Take none."""


@asynccontextmanager
async def serve(config: Config) -> AsyncGenerator[Running]:
    """Run an engine while the block runs; port 0 takes a free one.

    Raises:
        RuntimeError: another process owns the data.
        OSError: a port is taken.
    """
    engine = await asyncio.to_thread(Engine, config)
    faults, upkeep = Faults(), Upkeep(engine)
    try:
        flight = FlightServer(engine, faults)
        try:
            async with _http(Api(engine, faults, upkeep), config) as port:
                yield Running(
                    f"http://{HOST}:{port}", f"grpc://{HOST}:{flight.port}", engine, faults
                )
        finally:
            await asyncio.to_thread(flight.shutdown)
    finally:
        await asyncio.to_thread(upkeep.close)
        await asyncio.to_thread(engine.close)


@asynccontextmanager
async def _http(api: Api, config: Config) -> AsyncGenerator[int]:
    listener = _listen(config.http_port)
    settings = uvicorn.Config(
        api.application(),
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = _Server(settings)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await running
        listener.close()
        api.close()


def _listen(port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is said: 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener
