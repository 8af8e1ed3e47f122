"""What a source may pin its connections to, and how hosts and ranges are written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentcy_ray.core.setting_types import Networks
from agentcy_ray.stores.addresses import Network

_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?|\[?[0-9a-f:]+(?:\.[0-9.]+)?\]?")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Host = Annotated[str, Field(min_length=1, max_length=255)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Pins(BaseModel):
    """Where a source may connect to and nowhere else. An empty list pins nothing.

    Pins narrow what the operator allows; they open nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    hosts: tuple[Host, ...] = Field(
        default=(), max_length=100, description="hosts; *.example.com for all below a domain"
    )
    ports: tuple[Port, ...] = Field(default=(), max_length=100, description="ports")
    cidrs: Networks = Field(
        default=(), max_length=100, description="ranges that every address must lie in"
    )
    tls_sha256: str | None = Field(
        default=None, description="SHA-256 of the server's certificate (DER), hexadecimal"
    )

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        hosts = tuple(host.strip().lower().removesuffix(".") for host in value)
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host; write api.example.com or *.example.com")
        return hosts

    @field_validator("tls_sha256")
    @classmethod
    def _is_digest(cls, value: str | None) -> str | None:
        digest = None if value is None else value.replace(":", "").strip().lower()
        if digest is not None and not _SHA256.fullmatch(digest):
            raise ValueError("must be 64 hexadecimal digits")
        return digest

    def stored(self) -> dict[str, object]:
        """What is kept of them: only what pins something."""
        return self.model_dump(mode="json", exclude_defaults=True)


def host_matches(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host is one of ``patterns`` or lies below one that starts with ``*.``.

    ``*.example.com`` is for ``a.example.com`` and ``a.b.example.com``, not for ``example.com``.
    """
    name = _plain(host)
    for pattern in map(_plain, patterns):
        if name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:])):
            return True
    return False


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks of their texts; a plain address is the network of itself."""
    return tuple(ip_network(text, strict=False) for text in texts)


def _plain(host: str) -> str:
    return host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
