"""``egress_request``, ``egress_connect``: what the guard of the way out costs a request.

Subject: a client of ``open_http`` as connectors have it. Control: a bare ``httpx2`` client, same
limits, to the same server. The server answers ``ok`` from a thread and a loop of its own, so it
costs both the same. ``egress_request`` is over a kept connection, ``egress_connect`` makes a new
client and a connection for each request, with the name resolved and every answer judged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread

import httpx2

from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.stores.egress import Egress
from agentcy_ray.stores.http_client import open_http
from benchmarks.figures import Figure, alternate, compared

REQUESTS, CONNECTS, ROUNDS = 2_000, 300, 7
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def run() -> list[Figure]:
    """Microseconds a request of both, in turns."""
    settings = AccessSettings(egress_private_cidrs=("127.0.0.0/8", "::1/128"))
    egress = Egress(settings)
    with _server() as port:
        url = f"http://localhost:{port}/"

        def guarded() -> httpx2.AsyncClient:
            return open_http(egress.guard("tenant"))

        def bare() -> httpx2.AsyncClient:
            return httpx2.AsyncClient(trust_env=False, verify=egress.certificates)

        kept = await alternate(_kept(guarded, url), _kept(bare, url), ROUNDS)
        fresh = await alternate(_fresh(guarded, url), _fresh(bare, url), ROUNDS)
    return [
        compared("egress_request", "µs", "a bare httpx2 client", *kept, at_most=1.25),
        compared("egress_connect", "µs", "a bare httpx2 client", *fresh, at_most=1.5),
    ]


def _kept(make: Callable[[], httpx2.AsyncClient], url: str) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        async with make() as client:
            await client.get(url)
            started = time.perf_counter()
            for _ in range(REQUESTS):
                await client.get(url)
            return (time.perf_counter() - started) / REQUESTS * 1e6

    return measure


def _fresh(make: Callable[[], httpx2.AsyncClient], url: str) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        started = time.perf_counter()
        for _ in range(CONNECTS):
            async with make() as client:
                await client.get(url)
        return (time.perf_counter() - started) / CONNECTS * 1e6

    return measure


@contextmanager
def _server() -> Generator[int]:
    ready: Future[int] = Future()
    stopped: Future[Callable[[], object]] = Future()

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(_answer, "localhost", 0)
        stopped.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        ready.set_result(server.sockets[0].getsockname()[1])
        await stop.wait()
        server.close()

    thread = Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        yield ready.result(10)
    finally:
        stopped.result(10)()
        thread.join(10)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(_ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
        pass  # the client is done, or the benchmark is
    finally:
        writer.close()
