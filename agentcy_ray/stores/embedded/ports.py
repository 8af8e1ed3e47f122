"""Free loopback ports."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

from agentcy_ray.core.errors import ConfigError

PORTS = range(20_000, 32_000)
"""Below the range that Linux gives to outgoing connections, so a restart finds its port free."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose(preferred: Iterable[int]) -> int:
    """The first preferred port that is free, else any free one.

    Raises:
        ConfigError: no port is free.
    """
    for port in (*preferred, *random.sample(PORTS, 200)):
        if is_free(port):
            return port
    raise ConfigError("no free loopback port from 20000 to 31999; stop what holds them")
