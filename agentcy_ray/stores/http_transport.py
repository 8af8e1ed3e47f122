"""The transport of every HTTP request that leaves the platform: guarded, pinned, bounded."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import Any, cast

import httpcore2
import httpx2

from agentcy_ray.core.errors import EgressDeniedError, StoreUnavailableError, TooLargeError
from agentcy_ray.stores.egress import Guard, port_of
from agentcy_ray.stores.http_body import CORE_ERRORS, Body, client_error, decoder_of

_ATTEMPT_SECS = 4.0
"""How long one address of several is tried before the next one gets its turn."""
_KEPT_SECS = 30.0
_KNOWN_PLACES = 256
SocketOption = Any


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends a request when its guard lets it, over connections to addresses that it judged.

    Every request is checked, so redirects are too, whoever follows them. Connections are kept per
    origin; a kept one stays with the address that was judged when it was made.
    """

    def __init__(
        self, guard: Guard, *, connections: int, max_bytes: int, total_secs: float | None
    ) -> None:
        """Nothing is connected yet.

        Args:
            guard: judges each place.
            connections: most at once.
            max_bytes: of an answer, decompressed.
            total_secs: from sending a request to the end of its answer; None = no limit.
        """
        self._guard = guard
        self._connections = connections
        self._max_bytes = max_bytes
        self._total_secs = total_secs
        self._pools: dict[str | None, httpcore2.AsyncConnectionPool] = {}
        self._places: dict[tuple[str, str, int], httpcore2.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the body of the answer is read later.

        Raises:
            EgressDeniedError: the place may not be reached.
            TooLargeError: the answer says that it is larger than ``max_bytes``.
            httpx2.HTTPError: as with any transport.
        """
        url = request.url
        pool = self._pool(request)
        core = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        loop = asyncio.get_running_loop()
        ends = None if self._total_secs is None else loop.time() + self._total_secs
        try:
            async with asyncio.timeout_at(ends):
                answer = await pool.handle_async_request(core)
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no answer in {self._total_secs:g} s") from error
        except CORE_ERRORS as error:
            raise client_error(error) from error
        return await self._response(request, answer, ends)

    async def aclose(self) -> None:
        """Close the connections."""
        pools = list(self._pools.values())
        self._pools.clear()
        self._places.clear()
        for pool in pools:
            await pool.aclose()

    # -- inside --------------------------------------------------------------------------------

    def _pool(self, request: httpx2.Request) -> httpcore2.AsyncConnectionPool:
        url = request.url
        host = url.raw_host.decode("ascii")
        place = (url.scheme, host, port_of(url))
        if url.userinfo and self._guard.purpose == "tenant":
            raise EgressDeniedError(
                "the connection is refused: a URL must not carry a user name or password", host=host
            )
        if request.headers.get("host", "").encode() != url.netloc:
            raise EgressDeniedError(
                "the connection is refused: the Host header names another host than the URL;"
                " leave it out",
                host=host,
            )
        # What a guard says of a name never changes, so it is asked once per place.
        known = self._places.get(place)
        if known is not None:
            return known
        if url.scheme not in {"http", "https"}:
            raise httpx2.UnsupportedProtocol(f"{url.scheme or 'this'!r} is neither http nor https")
        self._guard.check(*place)
        proxy = self._guard.proxy(*place)
        if proxy not in self._pools:
            self._pools[proxy] = self._new_pool(proxy)
        if len(self._places) >= _KNOWN_PLACES:
            self._places.clear()
        self._places[place] = self._pools[proxy]
        return self._pools[proxy]

    def _new_pool(self, proxy_url: str | None) -> httpcore2.AsyncConnectionPool:
        egress, pin = self._guard.egress, self._guard.pins.tls_sha256
        common: dict[str, Any] = {
            "ssl_context": egress.certificates,
            "max_connections": self._connections,
            "max_keepalive_connections": self._connections,
            "keepalive_expiry": _KEPT_SECS,
        }
        if proxy_url is None:
            backend = _Backend(self._guard, pin, None)
            return httpcore2.AsyncConnectionPool(network_backend=backend, **common)
        proxy = httpx2.Proxy(proxy_url)
        # The proxy is the operator's, wherever the request behind it is to go.
        host = proxy.url.raw_host.decode("ascii")
        return httpcore2.AsyncHTTPProxy(
            proxy_url=httpcore2.URL(
                scheme=proxy.url.raw_scheme,
                host=proxy.url.raw_host,
                port=proxy.url.port,
                target=b"/",
            ),
            proxy_auth=proxy.raw_auth,
            proxy_ssl_context=egress.certificates if proxy.url.scheme == "https" else None,
            network_backend=_Backend(egress.guard("operator"), pin, host),
            **common,
        )

    async def _response(
        self, request: httpx2.Request, answer: httpcore2.Response, ends: float | None
    ) -> httpx2.Response:
        headers = httpx2.Headers(answer.headers)
        stream = cast("AsyncIterable[bytes]", answer.stream)
        try:
            decoder = decoder_of(headers.get("content-encoding"))
            length = headers.get("content-length", "")
            if request.method != "HEAD" and length.isdecimal() and int(length) > self._max_bytes:
                raise TooLargeError(
                    f"{request.url.host} would send more than {self._max_bytes} bytes ({length});"
                    " split it or put it into the object store",
                    limit=self._max_bytes,
                )
        except BaseException:
            with suppress(httpcore2.NetworkError):
                await answer.aclose()
            raise
        if decoder is not None:
            for name in ("content-encoding", "content-length"):
                headers.pop(name, None)
        return httpx2.Response(
            answer.status,
            headers=headers,
            stream=Body(stream, decoder, request.url.host, self._max_bytes, ends),
            extensions=answer.extensions,
        )


class _Backend(httpcore2.AsyncNetworkBackend):
    """Opens connections to addresses that the guard judged, and looks at pinned certificates."""

    def __init__(self, guard: Guard, tls_sha256: str | None, proxy_host: str | None) -> None:
        self._guard = guard
        self._tls_sha256 = tls_sha256
        self._proxy_host = proxy_host
        self._plain = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of a host that answers."""
        try:
            addresses = await self._guard.addresses(host, port)
        except StoreUnavailableError as error:
            raise httpcore2.ConnectError(error.message) from error
        loop = asyncio.get_running_loop()
        ends = None if timeout is None else loop.time() + timeout
        for number, address in enumerate(addresses, 1):
            left = None if ends is None else max(0.001, ends - loop.time())
            if number < len(addresses):
                left = _ATTEMPT_SECS if left is None else min(left, _ATTEMPT_SECS)
            try:
                stream = await self._plain.connect_tcp(
                    address, port, left, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses):
                    raise
            else:
                if self._tls_sha256 is None:
                    return stream
                return _PinnedStream(stream, self._tls_sha256, self._proxy_host)
        raise httpcore2.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        await asyncio.sleep(seconds)


class _PinnedStream(httpcore2.AsyncNetworkStream):
    """A connection whose server must show one certificate, which must be valid as well."""

    def __init__(
        self, stream: httpcore2.AsyncNetworkStream, tls_sha256: str, proxy_host: str | None
    ) -> None:
        self._stream = stream
        self._tls_sha256 = tls_sha256
        self._proxy_host = proxy_host

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Begin TLS, and end the connection when another certificate is shown."""
        secure = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        if server_hostname == self._proxy_host:
            return _PinnedStream(secure, self._tls_sha256, None)
        shown = secure.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if hashlib.sha256(shown).hexdigest() != self._tls_sha256:
            await secure.aclose()
            raise EgressDeniedError(
                f"the connection is refused: {server_hostname} shows another certificate than the"
                " one that this source pins; if it was renewed, change egress.tls_sha256",
                host=server_hostname,
            )
        return secure
