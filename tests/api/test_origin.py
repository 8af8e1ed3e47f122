"""The address of a client behind an ingress and behind proxies; what a client says is not it."""

from __future__ import annotations

from typing import Any

import pytest

from agentcy_ray.api.origin import Origin
from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings

PEER = b"x-agentcy-peer"
INGRESS = "127.0.0.1"


async def client(origin: dict[str, Any], *headers: tuple[bytes, bytes]) -> str | None:
    """Whom the application sees; the connection itself comes from the ingress."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"])

    scope = {"type": "http", "client": (INGRESS, 4711), "headers": list(headers)}
    await Origin(app, **origin)(scope, None, None)  # type: ignore[arg-type]
    return seen[0][0]


def forwarded(text: str) -> tuple[bytes, bytes]:
    return b"x-forwarded-for", text.encode()


async def test_without_trusted_proxies_a_forwarded_header_says_nothing() -> None:
    spoofed = forwarded("6.6.6.6")
    assert await client({}, spoofed) == INGRESS
    assert await client({"peer_header": PEER}, (PEER, b"203.0.113.7"), spoofed) == "203.0.113.7"
    trusted = {"peer_header": PEER, "trusted": ("10.0.0.0/8",)}
    assert await client(trusted, (PEER, b"203.0.113.7"), spoofed) == "203.0.113.7"


async def test_without_an_ingress_nobody_may_name_the_peer() -> None:
    assert await client({"trusted": ("10.0.0.0/8",)}, (PEER, b"10.0.0.1")) == INGRESS


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["198.51.100.9"], "198.51.100.9"),
        # What the client wrote stands left of what the proxy has seen.
        (["6.6.6.6, 198.51.100.9"], "198.51.100.9"),
        (["10.1.1.1, 198.51.100.9"], "198.51.100.9"),
        # Trusted hops are passed, over several lines too.
        (["6.6.6.6, 198.51.100.9, 10.2.2.2"], "198.51.100.9"),
        (["6.6.6.6", "198.51.100.9", "10.2.2.2"], "198.51.100.9"),
        (["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        # Ports, brackets, and IPv4 inside of IPv6.
        (["198.51.100.9:52011"], "198.51.100.9"),
        (["[2001:db8::9]:52011"], "2001:db8::9"),
        (["::ffff:198.51.100.9"], "198.51.100.9"),
        # Nonsense ends the walk at the last address that somebody vouched for.
        (["198.51.100.9, unknown"], "10.0.0.1"),
        (["198.51.100.9, <script>, 10.2.2.2"], "10.2.2.2"),
        ([""], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
async def test_behind_trusted_proxies_the_last_hop_that_is_not_one_is_the_client(
    lines: list[str], expected: str
) -> None:
    how = {"peer_header": PEER, "trusted": ("10.0.0.0/8",)}
    assert await client(how, (PEER, b"10.0.0.1"), *map(forwarded, lines)) == expected


async def test_a_proxy_may_be_trusted_without_an_ingress_of_ours() -> None:
    assert await client({"trusted": (INGRESS,)}, forwarded("198.51.100.9")) == "198.51.100.9"


def test_networks_that_are_none_are_refused_at_the_start() -> None:
    settings = Settings.load({"TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::/32,192.0.2.1"})
    assert settings.trusted_proxies == ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1")
    with pytest.raises(ConfigError, match=r"TRUSTED_PROXIES.*'10\.0\.0\.0/99' is no address"):
        Settings.load({"TRUSTED_PROXIES": "10.0.0.0/99"})
