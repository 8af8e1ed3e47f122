"""Where a request comes from, when others have passed it on.

The ingress says in a header of its own who connected to it; nobody else's word for that is taken.
Only when that peer is one of ``TRUSTED_PROXIES`` is its ``X-Forwarded-For`` read, from the right,
past every hop that is trusted too: what a client wrote into it stands left of what a proxy added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

_KEPT = 4096
"""Addresses whose trust is remembered."""


class Origin:
    """ASGI middleware that makes ``scope["client"]`` the client.

    Args:
        app: what comes after.
        trusted: networks whose ``X-Forwarded-For`` is believed (``Settings.trusted_proxies``).
        peer_header: the header by which the ingress tells its peer, in lower case; None when
            requests come without an ingress, and the connection itself tells.
    """

    def __init__(
        self, app: ASGIApp, trusted: Sequence[str] = (), peer_header: bytes | None = None
    ) -> None:
        self._app = app
        self._peer_header = peer_header
        networks = [ip_network(text, strict=False) for text in trusted]

        @lru_cache(_KEPT)
        def is_trusted(address: IPv4Address | IPv6Address) -> bool:
            return any(address in network for network in networks)

        self._trusts = is_trusted if networks else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            peer = self._peer(scope)
            if peer is not None:
                scope["client"] = (self._client(peer, scope), 0)
        await self._app(scope, receive, send)

    def _peer(self, scope: Scope) -> str | None:
        if self._peer_header is None:
            return scope["client"][0] if scope.get("client") else None
        for name, value in scope["headers"]:
            if name == self._peer_header:
                return value.decode("latin-1")
        return None  # it did not come through the ingress

    def _client(self, peer: str, scope: Scope) -> str:
        if self._trusts is None:
            return peer
        known = _address(peer)
        if known is None:
            return peer
        for hop in _hops(scope["headers"]):
            if not self._trusts(known):
                break
            before = _address(hop)
            if before is None:
                break  # "unknown", or nonsense: the last address that somebody vouched for stands
            known = before
        return str(known)


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The hops of all ``X-Forwarded-For`` lines, the last one first."""
    lines = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return [hop.strip() for hop in reversed(",".join(lines).split(","))] if lines else []


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, with or without a port; None when it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
