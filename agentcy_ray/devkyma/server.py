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
    try:
        faults = Faults()
        flight = FlightServer(engine, faults)
        try:
            async with _http(engine, faults) as port:
                yield Running(
                    f"http://{HOST}:{port}", f"grpc://{HOST}:{flight.port}", engine, faults
                )
        finally:
            await asyncio.to_thread(flight.shutdown)
    finally:
        await asyncio.to_thread(engine.close)


@asynccontextmanager
async def _http(engine: Engine, faults: Faults) -> AsyncGenerator[int]:
    api = Api(engine, faults)
    listener = socket.create_server((HOST, engine.config.http_port))
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
