"""Free loopback ports."""

from __future__ import annotations

import random
import socket
from collections.abc import Container, Iterable

from agentcy_ray.core.errors import ConfigError

PORTS = range(20_000, 32_000)
"""Below the range that Linux gives to outgoing connections, so a restart finds its port free."""


def is_free(port: int, *, lingering: bool = True) -> bool:
    """Whether a server could listen on this loopback port now.

    Args:
        port: which.
        lingering: whether a port counts as free that is only reserved, or whose last connections
            linger for a minute; servers that set ``SO_REUSEADDR``, as ours do, may have it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if lingering:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose(preferred: Iterable[int], taken: Container[int] = ()) -> int:
    """The first preferred port that is free and not in ``taken``, else any such.

    Raises:
        ConfigError: no port is free.
    """
    for port in preferred:
        if port not in taken and is_free(port):
            return port
    for port in random.sample(PORTS, 200):
        if port not in taken and is_free(port, lingering=False):
            return port
    raise ConfigError("no free loopback port from 20000 to 31999; stop what holds them")


class Reservation:
    """Keeps ports from others until their server, which starts later, listens on them.

    A socket that is bound but does not listen is given no connections. The kernel never gives its
    port to somebody who asks for any port, nor to an outgoing connection; a server that asks for
    this very port with ``SO_REUSEADDR``, as HAProxy does, gets it.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def hold(self, host: str, port: int) -> None:
        """Keep ``port`` on ``host`` from now on.

        Raises:
            ConfigError: somebody took it in this moment.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
        except OSError as error:
            held.close()
            raise ConfigError(
                f"port {port} was taken by another program just now; start again, or set "
                "AGENTCY_PORT to a free one",
                code="port_taken",
            ) from error
        self._held.append(held)

    def release(self) -> None:
        """Let go of all ports; their servers keep them."""
        for held in self._held:
            held.close()
        self._held.clear()
