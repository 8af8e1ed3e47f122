"""The guard of the way out: which hosts and addresses a connection may reach.

There are two purposes. ``tenant``: somebody who uses the platform chose the host (a source, a
webhook, a tool server, a model URL of an organisation); it must lie on the public Internet, unless
``EGRESS_PRIVATE_CIDRS`` opens a range. ``operator``: the host stands in a setting; it may lie in
the operator's own network. Metadata addresses are closed to both, unless a range is just that one.

A name is resolved once per connection, every answer is judged, and the connection goes to one that
was judged: a name that means something else a moment later changes nothing. HTTP goes out by
``stores.http_client.open_http``; what opens sockets by itself asks ``Guard.addresses``.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from ipaddress import ip_address
from typing import Literal, Protocol

import httpx2

from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.core.errors import ConfigError, EgressDeniedError, StoreUnavailableError
from agentcy_ray.stores.addresses import (
    METADATA_NAMES,
    OWN_NETWORK,
    Address,
    Network,
    kind_of,
    names_exactly,
    parse_literal,
    unwrap,
    within,
)
from agentcy_ray.stores.egress_pins import Pins, host_matches, networks_of
from agentcy_ray.stores.proxies import Proxies

Purpose = Literal["tenant", "operator"]
RESOLVE_SECS = 10.0
RESOLVING = 16
"""Names that one process resolves at a time, for each ``Egress``."""
DEFAULT_PORTS = {"http": 80, "https": 443, "ssh": 22}
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_INNER_SUFFIXES = (
    ".localhost", ".local", ".localdomain", ".internal", ".intranet", ".lan", ".home.arpa",
    ".corp", ".svc", ".cluster.local",
)  # fmt: skip


class Resolver(Protocol):
    """Turns a name into addresses."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Every address of ``host``, best first; empty when it has none.

        Raises:
            OSError: the name cannot be resolved.
        """
        ...


class SystemResolver:
    """The resolver of the operating system.

    It blocks, so it has threads of its own: names whose servers never answer hold up other names at
    most, and nothing else that the process does in threads.
    """

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(RESOLVING, thread_name_prefix="resolve")

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """As the protocol says."""
        ask = partial(
            socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return list(dict.fromkeys(str(place[0]) for _, _, _, _, place in found))


class Egress:
    """What every guard of a process shares: rules of the operator, resolver, certificates."""

    def __init__(self, settings: AccessSettings, resolver: Resolver | None = None) -> None:
        self.private: tuple[Network, ...] = networks_of(settings.egress_private_cidrs)
        self.allowed_hosts = settings.egress_allowed_hosts
        self.proxies = Proxies(settings.http_proxy, settings.https_proxy, settings.no_proxy)
        self.resolver: Resolver = resolver or SystemResolver()

    @cached_property
    def certificates(self) -> ssl.SSLContext:
        """Verifies servers; ``SSL_CERT_FILE`` names other authorities. Slow to make, so shared."""
        return httpx2.create_ssl_context()

    def guard(self, purpose: Purpose, pins: Pins | None = None) -> Guard:
        """A guard for one purpose, narrowed by the pins of a source."""
        return Guard(self, purpose, pins or Pins())


class Guard:
    """Says where one client may connect to. Made by ``Egress.guard``."""

    def __init__(self, egress: Egress, purpose: Purpose, pins: Pins) -> None:
        self.egress = egress
        self.purpose = purpose
        self.pins = pins
        self._cidrs = networks_of(pins.cidrs)

    def check(self, scheme: str, host: str, port: int) -> None:
        """Judge a place by its name alone, before anything is resolved.

        Args:
            scheme: of the URL, lower case.
            host: a name in ASCII (punycode) or an address, as ``httpx2.URL.raw_host`` has it.
            port: where the connection is to go.

        Raises:
            EgressDeniedError: the pins, the settings, or what the host is forbid it.
        """
        if self.pins.tls_sha256 and scheme != "https":
            raise _denied("this source pins a certificate and so needs an https URL", host)
        self._name(host, port)

    def check_url(self, url: httpx2.URL) -> None:
        """Judge a URL by its host and port; see ``check``."""
        self.check(url.scheme, url.raw_host.decode("ascii"), port_of(url))

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect to for a host: its addresses, each of which may be reached.

        Raises:
            EgressDeniedError: the place, or any of its addresses, is forbidden.
            StoreUnavailableError: the name cannot be resolved.
        """
        literal = self._name(host, port)
        if literal is not None:
            return [str(unwrap(literal))]
        try:
            async with asyncio.timeout(RESOLVE_SECS):
                answers = await self.egress.resolver.resolve(host, port)
        except TimeoutError as error:
            raise StoreUnavailableError(f"resolving {host} took too long; try again") from error
        except (OSError, UnicodeError) as error:
            raise StoreUnavailableError(f"{host} cannot be resolved; check the name") from error
        if not answers:
            raise StoreUnavailableError(f"{host} has no address; check the name")
        # One answer that may not be reached spoils them all: who mixes them is up to something.
        for answer in answers:
            try:
                address = ip_address(answer)
            except ValueError as error:
                raise StoreUnavailableError(f"{host} resolves to no address") from error
            self._address(address, f"{host} resolves to", host)
        return list(answers)

    def proxy(self, scheme: str, host: str, port: int) -> str | None:
        """URL of the proxy that stands before a place; None = connect to it directly.

        Raises:
            EgressDeniedError: the proxy would resolve a name of an inner network for a tenant, or
                one whose addresses are pinned.
        """
        literal = _literal(host)
        # A loopback address means this machine, which no proxy knows.
        if host == "localhost" or (literal is not None and literal.is_loopback):
            return None
        found = self.egress.proxies.of(scheme, host, port)
        if found is not None and literal is None and self.purpose == "tenant":
            name = host.lower().removesuffix(".")
            inner = "." not in name or name.endswith(_INNER_SUFFIXES)
            if inner and not host_matches(name, self.egress.allowed_hosts):
                raise _denied(f"{host} is a name of an inner network", host)
        if found is not None and literal is None and self._cidrs:
            raise _denied("this source pins ranges, and a proxy resolves its names", host)
        return found

    # -- inside --------------------------------------------------------------------------------

    def _name(self, host: str, port: int) -> Address | None:
        name = host.lower().removesuffix(".")
        literal = _literal(name)
        if literal is not None:
            self._address(literal, f"{host} is", host)
        elif len(name) > 253 or not _NAME.fullmatch(name):
            raise _denied("the host is no name that a server can have", host)
        elif name in METADATA_NAMES:
            raise _denied(f"{host} is the metadata service of a cloud", host)
        if not 0 < port < 65_536:
            raise _denied(f"there is no port {port}", host)
        pins, allowed = self.pins, self.egress.allowed_hosts
        if pins.hosts and not host_matches(name, pins.hosts):
            raise _denied(f"this source is pinned to {', '.join(pins.hosts)}, not {host}", host)
        if pins.ports and port not in pins.ports:
            ports = ", ".join(map(str, pins.ports))
            raise _denied(f"this source is pinned to port {ports}, not {port}", host)
        if self.purpose == "tenant" and allowed and not host_matches(name, allowed):
            raise _denied(f"{host} is not among EGRESS_ALLOWED_HOSTS", host)
        return literal

    def _address(self, address: Address, what: str, host: str) -> None:
        kind, private = kind_of(address), self.egress.private
        if self._cidrs and not within(address, self._cidrs):
            raise _denied(f"{what} an address outside of the ranges that this source pins", host)
        if kind is None:
            return
        if kind == "metadata":
            is_open = names_exactly(address, private)
        else:
            own = self.purpose == "operator" and kind in OWN_NETWORK
            is_open = own or within(address, private)
        if not is_open:
            # Which address it is stays unsaid: a tenant could map the inner network by its names.
            raise _denied(f"{what} {'an' if kind[0] in 'aeiou' else 'a'} {kind} address", host)


def proxy_of(settings: AccessSettings, url: str) -> str | None:
    """The proxy before a URL of the settings, for a library that brings its own connections.

    Raises:
        ConfigError: the URL, or a proxy's, is malformed.
        EgressDeniedError: the URL's host is closed even to operators.
    """
    guard = Egress(settings).guard("operator")
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"{url!r} is no URL: {error}; correct the setting") from error
    guard.check_url(parsed)
    return guard.proxy(parsed.scheme, parsed.raw_host.decode("ascii"), port_of(parsed))


def port_of(url: httpx2.URL) -> int:
    """The port of a URL, its scheme's own when it names none."""
    return DEFAULT_PORTS.get(url.scheme, 0) if url.port is None else url.port


def _literal(host: str) -> Address | None:
    try:
        return parse_literal(host)
    except ValueError as error:
        raise _denied(f"{host} is {error}", host) from error


def _denied(reason: str, host: str) -> EgressDeniedError:
    return EgressDeniedError(
        f"the connection is refused: {reason}; name another host, or let the operator open it by"
        " EGRESS_PRIVATE_CIDRS or EGRESS_ALLOWED_HOSTS",
        host=host,
    )
