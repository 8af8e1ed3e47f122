"""The gate through which libgit2 reaches a server.

libgit2 opens sockets by itself and resolves names anew for each. So it is given no way out but one:
for the time of an operation a gate listens on loopback, judges where libgit2 wants to go, and
connects to an address that was judged. For http and https the gate is libgit2's proxy (TLS stays
between libgit2 and the server); for ssh it is the server's stand-in, and libgit2 compares the host
key with those that ``known_hosts`` has for the real one.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from base64 import b64encode
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from types import TracebackType
from urllib.parse import urlsplit

import httpx2

from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.git.config import place_of
from agentcy_ray.connectors.git.known_hosts import Introduced
from agentcy_ray.core.errors import AgentcyError, EgressDeniedError, StoreUnavailableError
from agentcy_ray.stores.egress import Guard

_HEAD_BYTES = 64 * 1024
_HEAD_SECS = 15.0
_CONNECT_SECS = 15.0
_CHUNK = 64 * 1024
_START_SECS = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Way:
    """What libgit2 is told: the URL, and the proxy before it (None = none)."""

    url: str
    proxy: str | None


class Gate:
    """A context manager: inside of it libgit2 reaches what the guard allows, by the ``Way``.

    Raises, on leaving with an error: EgressDeniedError or SourceConfigError (``unreachable``) in
    place of what libgit2 made of a connection that the gate refused or could not open.
    """

    def __init__(self, guard: Guard, url: str) -> None:
        self._guard = guard
        self._url = url
        self._place = place_of(url)
        self._secret = secrets.token_urlsafe(18)
        self._port: Future[int] = Future()
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._refused: AgentcyError | None = None
        self._streams: set[asyncio.Task[None]] = set()
        self._introduced = Introduced()

    def __enter__(self) -> Way:
        place = self._place
        if place is None:  # a folder
            return Way(self._url, None)
        self._guard.check(place.scheme, place.host, place.port)
        self._thread = Thread(target=self._run, name="git-gate", daemon=True)
        self._thread.start()
        port = self._port.result(_START_SECS)
        if place.scheme != "ssh":
            return Way(self._url, f"http://gate:{self._secret}@127.0.0.1:{port}")
        self._introduced.add(place.host, place.port, port)
        return Way(place.at_gate(port), None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            if self._loop is not None and self._stop is not None:
                with suppress(RuntimeError):  # its loop has ended already
                    self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._introduced.close()
        if error is not None and self._refused is not None:
            raise self._refused from error

    # -- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # the other thread waits for the port
            if not self._port.done():
                self._port.set_exception(error)
            raise

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        answer = self._forward if self._is_ssh else self._proxy
        server = await asyncio.start_server(
            lambda reader, writer: self._take(answer, (reader, writer)),
            "127.0.0.1",
            0,
            limit=_HEAD_BYTES,
        )
        async with server:
            self._port.set_result(server.sockets[0].getsockname()[1])
            await self._stop.wait()
        for task in self._streams:
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    @property
    def _is_ssh(self) -> bool:
        return self._place is not None and self._place.scheme == "ssh"

    def _take(self, answer: Callable[[Streams], Awaitable[None]], streams: Streams) -> None:
        task = asyncio.create_task(self._one(answer, streams))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def _one(self, answer: Callable[[Streams], Awaitable[None]], streams: Streams) -> None:
        try:
            await answer(streams)
        except EgressDeniedError as error:
            self._refused = error
        except StoreUnavailableError as error:
            message = f"{error.message}, the network and HTTPS_PROXY"
            self._refused = fault("unreachable", message, loc="url")
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # libgit2 sees the connection end and says so
        finally:
            streams[1].close()

    async def _forward(self, streams: Streams) -> None:
        """Be the ssh server."""
        assert self._place is not None
        await _pipe(streams, await self._connect(self._place.host, self._place.port))

    async def _proxy(self, streams: Streams) -> None:
        """Be a proxy for one request: CONNECT, or a request with an absolute URL."""
        reader, writer = streams
        first, lines = b"", list[bytes]()
        while not self._is_ours(lines):
            async with asyncio.timeout(_HEAD_SECS):
                head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].split(b"\r\n")
            if self._is_ours(lines):
                break
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="gate"\r\nContent-Length: 0\r\n\r\n'
            )
        method, target, version = first.split(b" ", 2)
        if method == b"CONNECT":
            place = urlsplit(f"//{target.decode('ascii')}")
            there = await self._reach("https", place.hostname or "", place.port or 443)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            url = urlsplit(target.decode("ascii"))
            if url.scheme != "http":
                raise EgressDeniedError("the connection is refused: the gate is for http and https")
            there = await self._reach("http", url.hostname or "", url.port or 80)
            path = url._replace(scheme="", netloc="").geturl() or "/"
            if self._upstream("http", url.hostname or "", url.port or 80) is not None:
                path = target.decode("ascii")
            # One request per connection: the next one may want another server.
            kept = [line for line in lines if not _is_hop(line)] + [b"Connection: close"]
            kept += self._upstream_header("http", url.hostname or "", url.port or 80)
            start = b" ".join((method, path.encode("ascii"), version))
            there[1].write(b"\r\n".join([start, *kept]) + b"\r\n\r\n")
        await _pipe(streams, there)

    def _is_ours(self, lines: list[bytes]) -> bool:
        expected = b"Basic " + b64encode(f"gate:{self._secret}".encode())
        for line in lines:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"proxy-authorization":
                return hmac.compare_digest(value.strip(), expected)
        return False

    async def _reach(self, scheme: str, host: str, port: int) -> Streams:
        self._stay(scheme, host, port)
        self._guard.check(scheme, host, port)
        proxy = self._upstream(scheme, host, port)
        if proxy is None:
            return await self._connect(host, port)
        return await _through(self._guard.egress.guard("operator"), proxy, scheme, host, port)

    def _stay(self, scheme: str, host: str, port: int) -> None:
        """Follow no redirect to elsewhere: libgit2 would give our credentials to whoever asks."""
        own = self._place
        assert own is not None
        same = host.lower() == own.host.lower()
        upgraded = own.scheme == "http" and scheme == "https" and port == 443
        if not same or not (upgraded or (scheme, port) == (own.scheme, own.port)):
            raise EgressDeniedError(
                f"the connection is refused: {own.host} redirects to {scheme}://{host}:{port}, and"
                " credentials stay with their origin; name that place as the url",
                host=host,
            )

    def _upstream(self, scheme: str, host: str, port: int) -> str | None:
        return self._guard.proxy(scheme, host, port)

    def _upstream_header(self, scheme: str, host: str, port: int) -> list[bytes]:
        proxy = self._upstream(scheme, host, port)
        return [] if proxy is None else _authorization(proxy)

    async def _connect(self, host: str, port: int) -> Streams:
        return await _connected(self._guard, host, port)


async def _connected(guard: Guard, host: str, port: int, **options: object) -> Streams:
    """Connect to the first address of a host that answers."""
    addresses = await guard.addresses(host, port)
    failed: OSError | None = None
    for address in addresses:
        try:
            async with asyncio.timeout(_CONNECT_SECS / len(addresses)):
                return await asyncio.open_connection(address, port, **options)  # pyright: ignore[reportArgumentType]
        except OSError as error:  # a timeout is one
            failed = error
    raise StoreUnavailableError(f"{host} cannot be reached ({failed}); check the URL")


async def _through(guard: Guard, proxy: str, scheme: str, host: str, port: int) -> Streams:
    """A connection to the proxy of the settings; for https, one through it."""
    url = httpx2.URL(proxy)
    name, secure = url.raw_host.decode("ascii"), url.scheme == "https"
    options = {"ssl": guard.egress.certificates, "server_hostname": name} if secure else {}
    there = await _connected(guard, name, url.port or (443 if secure else 80), **options)
    if scheme != "https":
        return there
    reader, writer = there
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1".encode(), f"Host: {place}".encode()]
    writer.write(b"\r\n".join([*lines, *_authorization(proxy)]) + b"\r\n\r\n")
    async with asyncio.timeout(_HEAD_SECS):
        head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        writer.close()
        raise StoreUnavailableError(f"the proxy opens no way to {host}; check the URL")
    return there


def _authorization(proxy: str) -> list[bytes]:
    url = httpx2.URL(proxy)
    if not url.userinfo:
        return []
    pair = f"{url.username}:{url.password}".encode()
    return [b"Proxy-Authorization: Basic " + b64encode(pair)]


def _is_hop(line: bytes) -> bool:
    name = line.partition(b":")[0].strip().lower()
    return name.startswith(b"proxy-") or name in {b"connection", b"keep-alive"}


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
    with suppress(OSError, RuntimeError):  # a TLS connection cannot end by halves
        if writer.can_write_eof():
            writer.write_eof()
