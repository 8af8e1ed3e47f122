"""Which proxy stands before which place: ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import httpx2

from agentcy_ray.core.errors import ConfigError


class Proxies:
    """Picks a proxy by scheme, except for the hosts of ``NO_PROXY``."""

    def __init__(self, http: str | None, https: str | None, without: Sequence[str]) -> None:
        """Read the settings.

        Args:
            http: URL of the proxy of http requests; None = none.
            https: of https requests.
            without: ``*``, hosts, domains (``.example.com`` and ``example.com`` mean the domain and
                all below it), addresses and networks, each with ``:port`` or without.

        Raises:
            ConfigError: a proxy's URL is malformed.
        """
        self._by_scheme = {"http": _checked(http), "https": _checked(https)}
        self._without = tuple(entry.strip().lower() for entry in without if entry.strip())

    def of(self, scheme: str, host: str, port: int) -> str | None:
        """URL of the proxy before ``host``; None = none."""
        proxy = self._by_scheme.get(scheme)
        if proxy is None or self._is_excepted(host.lower().removesuffix("."), port):
            return None
        return proxy

    def _is_excepted(self, host: str, port: int) -> bool:
        for entry in self._without:
            name, _, wanted = entry.rpartition(":")
            if name and wanted.isdigit() and ":" not in name:
                if int(wanted) != port:
                    continue
                entry = name
            if entry == "*" or _in_network(host, entry):
                return True
            domain = entry.removeprefix("*").removeprefix(".")
            if host == domain or host.endswith(f".{domain}"):
                return True
        return False


def _in_network(host: str, entry: str) -> bool:
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False


def _checked(url: str | None) -> str | None:
    if url is None:
        return None
    text = url if "://" in url else f"http://{url}"
    try:
        parsed = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError("HTTPS_PROXY or HTTP_PROXY is no URL; write http://host:port") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError("HTTPS_PROXY and HTTP_PROXY are http or https URLs: http://host:port")
    return text
