"""The session hosts there are, and which of them owns a source.

A source stays on the host that wins its rendezvous hash, so adding a host moves few sources (Thaler
and Ravishankar, 1998). Sets have versions: the foreman changes the set and tells the hosts, and
dispatchers learn it from the hosts' answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID


@dataclass(frozen=True)
class HostSet:
    """Names of the hosts. Of two sets the one with the higher version counts."""

    version: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class HostLoad:
    """What a host says of itself when it is told the set."""

    in_flight: int
    """Calls that wait or run now."""
    peak: int
    """The most since it was last asked."""
    undelivered: int
    """Answers that nobody has fetched yet."""
    pid: int
    """Its process."""


def choose_host(source_id: UUID, hosts: Sequence[str]) -> str:
    """The host of a source: the highest hash of (source, host)."""
    key = source_id.bytes
    return max(hosts, key=lambda host: blake2b(host.encode(), key=key, digest_size=8).digest())
