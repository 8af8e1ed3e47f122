"""The one way out over HTTP: makes the clients that connectors, SDKs and key services use."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from agentcy_ray.stores.egress import Guard
from agentcy_ray.stores.http_body import ACCEPT_ENCODING
from agentcy_ray.stores.http_transport import GuardedTransport

MAX_BYTES = 64 * 1024 * 1024


def open_http(
    guard: Guard,
    *,
    base_url: str = "",
    headers: Mapping[str, str] | None = None,
    idle_secs: float | None = 30.0,
    connect_secs: float = 10.0,
    total_secs: float | None = None,
    max_bytes: int = MAX_BYTES,
    connections: int = 20,
) -> httpx2.AsyncClient:
    """A client that reaches only what ``guard`` lets it; close it with ``aclose``.

    ``Egress(settings).guard("operator")`` makes a guard for a host that a setting names,
    ``guard("tenant", pins)`` for one that a user of the platform chose. The client honours
    ``HTTPS_PROXY``, ``HTTP_PROXY``, ``NO_PROXY`` and ``SSL_CERT_FILE``, keeps no cookies, reads no
    ``.netrc``, and doesn't follow redirects. Kept connections are reused, so keep the client.

    Args:
        guard: judges every request.
        base_url: put before relative URLs.
        headers: sent with each request; secrets belong here.
        idle_secs: without a byte; None = no limit.
        connect_secs: to connect, and to begin TLS.
        total_secs: from sending a request to the end of its answer; None = no limit.
        max_bytes: of an answer, decompressed; reading more raises ``TooLargeError``.
        connections: most at once.

    Requests raise ``EgressDeniedError`` besides the errors of httpx2.
    """
    return httpx2.AsyncClient(
        base_url=base_url,
        headers={"accept-encoding": ACCEPT_ENCODING, **(headers or {})},
        timeout=httpx2.Timeout(idle_secs, connect=connect_secs),
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        transport=GuardedTransport(
            guard, connections=connections, max_bytes=max_bytes, total_secs=total_secs
        ),
    )
