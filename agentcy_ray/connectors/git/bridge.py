"""HTTP from libgit2 on loopback, repeated to the real server by a guarded client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import h11
import httpx2

from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.git.config import Place
from agentcy_ray.core.errors import EgressDeniedError
from agentcy_ray.stores.egress import DEFAULT_PORTS, Guard, port_of
from agentcy_ray.stores.http_client import open_http

_CHUNK = 64 * 1024
_IDLE_SECS = 60.0
_MOST_BYTES = 1 << 40
"""Of a pack. The mirror lies on disk, so its space is the bound."""
_ASKED = frozenset({
    b"accept", b"authorization", b"content-length", b"content-type", b"git-protocol", b"user-agent",
})  # fmt: skip
"""Headers of libgit2 that the server gets."""
_ANSWERED = frozenset({"content-type", "retry-after", "www-authenticate"})
"""Headers of the server that libgit2 gets."""


class Bridge:
    """Serves one origin. Credentials stay with it: no redirect leads libgit2 elsewhere."""

    def __init__(self, guard: Guard, place: Place) -> None:
        """Nothing is connected yet.

        Args:
            guard: judges each request.
            place: the server, by http or https.
        """
        self._host = f"[{place.host}]" if ":" in place.host else place.host
        self._scheme, self._port = place.scheme, place.port
        self._client = open_http(
            guard, idle_secs=_IDLE_SECS, connect_secs=15.0, max_bytes=_MOST_BYTES, connections=2
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it ends.

        Raises:
            EgressDeniedError: the server may not be reached, or redirects to elsewhere.
            SourceConfigError: kind ``unreachable``.
        """
        talk = h11.Connection(h11.SERVER)
        while True:
            event = await _next(talk, reader)
            if not isinstance(event, h11.Request):
                return
            try:
                await self._one(event, talk, reader, writer)
            except httpx2.HTTPError as error:
                reason = str(error) or type(error).__name__
                raise fault(
                    "unreachable",
                    f"{self._host} cannot be reached ({reason}); check the URL, the network and"
                    " HTTPS_PROXY",
                    loc="url",
                ) from error
            await writer.drain()
            if talk.our_state is not h11.DONE or talk.their_state is not h11.DONE:
                return
            talk.start_next_cycle()

    async def _one(
        self,
        asked: h11.Request,
        talk: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        target = asked.target.decode("ascii")
        url = httpx2.URL(f"{self._scheme}://{self._host}:{self._port}{target}")
        if talk.they_are_waiting_for_100_continue:
            writer.write(_sent(talk, h11.InformationalResponse(status_code=100, headers=[])))
        body = _body(talk, reader)
        headers = [(name, value) for name, value in asked.headers if name in _ASKED]
        request = self._client.build_request(
            asked.method.decode("ascii"),
            url,
            headers=headers,
            content=None if asked.method == b"GET" else body,
        )
        if asked.method == b"GET":
            async for _ in body:
                pass
        response = await self._client.send(request, stream=True)
        try:
            kept = [(name, value) for name, value in response.headers.items() if name in _ANSWERED]
            if response.next_request is not None:
                kept.append(("location", self._location(url, response.next_request.url)))
            kept.append(("transfer-encoding", "chunked"))
            writer.write(_sent(talk, h11.Response(status_code=response.status_code, headers=kept)))
            async for part in response.aiter_bytes(_CHUNK):
                writer.write(_sent(talk, h11.Data(data=part)))
                await writer.drain()
            writer.write(_sent(talk, h11.EndOfMessage()))
        finally:
            await response.aclose()

    def _location(self, here: httpx2.URL, there: httpx2.URL) -> str:
        """A redirect as a path, which leads through the gate again.

        Within an origin a redirect is followed, as servers send one to a repository's full name;
        so is the one from http to https of the same host.
        """
        same = (there.scheme, port_of(there)) == (here.scheme, port_of(here))
        upgraded = (here.scheme, there.scheme) == ("http", "https")
        upgraded = upgraded and port_of(there) == DEFAULT_PORTS["https"]
        if there.raw_host != here.raw_host or there.userinfo or not (same or upgraded):
            raise EgressDeniedError(
                f"the connection is refused: {here.host} redirects to {there.scheme}://{there.host}"
                " and credentials stay with their origin; name that place as the url",
                host=there.host,
            )
        self._scheme, self._port = there.scheme, port_of(there)
        return there.raw_path.decode("ascii")


async def _next(talk: h11.Connection, reader: asyncio.StreamReader) -> object:
    """The next event; None when libgit2 hung up, or speaks no HTTP."""
    try:
        while (event := talk.next_event()) is h11.NEED_DATA:
            talk.receive_data(await reader.read(_CHUNK))
    except h11.RemoteProtocolError:
        return None
    return event


async def _body(talk: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What comes after the head of a request."""
    while isinstance(event := await _next(talk, reader), h11.Data):
        yield bytes(event.data)
    if not isinstance(event, h11.EndOfMessage):
        raise ConnectionResetError("libgit2 hung up")


def _sent(talk: h11.Connection, event: h11.Event) -> bytes:
    return talk.send(event) or b""
