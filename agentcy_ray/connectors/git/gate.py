"""The gate through which libgit2 reaches a server.

libgit2 opens sockets by itself, resolves names anew for each, follows redirects to anywhere, and
uses no proxy for http. So it is only ever told of a port on loopback, where a gate listens for the
time of an operation. For http and https the gate repeats each request by a guarded client
(``bridge``); for ssh it carries bytes to an address that the guard judged, and libgit2 compares the
server's key with those that ``known_hosts`` has for the real host.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from types import TracebackType

from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.git.bridge import Bridge
from agentcy_ray.connectors.git.config import Place, place_of
from agentcy_ray.connectors.git.known_hosts import Introduced
from agentcy_ray.core.errors import (
    AgentcyError,
    ConnectorUnavailableError,
    StoreUnavailableError,
)
from agentcy_ray.stores.egress import Guard

_CONNECT_SECS = 15.0
_CHUNK = 64 * 1024
_START_SECS = 30.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Gate:
    """A context manager that yields the URL to give to libgit2; no proxy belongs before it.

    Raises, on entering: EgressDeniedError, or ConnectorUnavailableError when this machine can open
    no gate.

    Raises, on leaving with an error: EgressDeniedError or SourceConfigError (``unreachable``) in
    place of what libgit2 made of a connection that was refused, could not be opened, or took too
    long.
    """

    def __init__(self, guard: Guard, url: str, secs: float) -> None:
        """Nothing listens yet.

        Args:
            guard: says where connections may go.
            url: of the repository, as ``locate`` accepted it; a folder needs no gate.
            secs: after which the gate falls: libgit2 waits for as long as a byte comes now and
                then, and holds a thread that others need.
        """
        self._guard = guard
        self._url = url
        self._secs = secs
        self._place = place_of(url)
        self._port: Future[int] = Future()
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._closed = False
        self._refused: AgentcyError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._introduced = Introduced()

    def __enter__(self) -> str:
        place = self._place
        if place is None:
            return self._url
        self._guard.check(place.scheme, place.host, place.port)
        self._thread = Thread(target=self._run, args=[place], name="git-gate", daemon=True)
        self._thread.start()
        try:
            port = self._port.result(_START_SECS)
            if place.scheme == "ssh":
                self._introduced.add(place.host, place.port, port)
        except OSError as error:  # a timeout is one
            self._close()
            raise ConnectorUnavailableError(
                f"this machine could not open a gate for git ({error or 'it takes too long'});"
                " try again when it has less to do, or raise its limit of open files"
            ) from error
        return place.at_gate(port)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if error is not None and self._refused is not None:
            raise self._refused from error

    def _close(self) -> None:
        self._closed = True
        if self._thread is not None:
            if self._loop is not None and self._stop is not None:
                with suppress(RuntimeError):  # its loop has ended already
                    self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_START_SECS)
        self._introduced.close()

    # -- in the thread -------------------------------------------------------------------------

    def _run(self, place: Place) -> None:
        try:
            asyncio.run(self._serve(place))
        except BaseException as error:
            if self._port.done():
                raise
            self._port.set_exception(error)  # raised where the port is waited for

    async def _serve(self, place: Place) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        if self._closed:  # nobody waited for so long
            return
        bridge = None if place.scheme == "ssh" else Bridge(self._guard, place)
        server = await asyncio.start_server(
            lambda reader, writer: self._take(place, bridge, (reader, writer)), "127.0.0.1", 0
        )
        try:
            async with server:
                self._port.set_result(server.sockets[0].getsockname()[1])
                try:
                    async with asyncio.timeout(self._secs):
                        await self._stop.wait()
                except TimeoutError:
                    self._refused = fault(
                        "unreachable",
                        f"{place.host} did not answer in full within {self._secs:g} s; try again"
                        " when it is less busy",
                        loc="url",
                    )
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            if bridge is not None:
                await bridge.aclose()

    def _take(self, place: Place, bridge: Bridge | None, streams: Streams) -> None:
        task = asyncio.create_task(self._one(place, bridge, streams))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, place: Place, bridge: Bridge | None, streams: Streams) -> None:
        try:
            if bridge is not None:
                await bridge.serve(*streams)
            else:
                await _pipe(streams, await self._connected(place.host, place.port))
        except OSError:
            pass  # an end went away, which libgit2 sees as well
        except AgentcyError as error:
            self._refused = error
        finally:
            streams[1].close()

    async def _connected(self, host: str, port: int) -> Streams:
        """A connection to the first address of a host that answers."""
        failed: OSError | None = None
        try:
            addresses = await self._guard.addresses(host, port)
        except StoreUnavailableError as error:
            raise fault("unreachable", f"{error.message} and the network", loc="url") from error
        for address in addresses:
            try:
                async with asyncio.timeout(_CONNECT_SECS / len(addresses)):
                    return await asyncio.open_connection(address, port)
            except OSError as error:  # a timeout is one
                failed = error
        raise fault(
            "unreachable",
            f"{host} cannot be reached ({failed}); check the URL and the network",
            loc="url",
        )


async def _pipe(one: Streams, other: Streams) -> None:
    """Carry bytes both ways until both ends are done."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(one[0], other[1]))
            group.create_task(_copy(other[0], one[1]))
    except* OSError:
        pass  # an end that went away; the other one is closed below
    finally:
        other[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(_CHUNK):
        writer.write(part)
        await writer.drain()
    writer.write_eof()
