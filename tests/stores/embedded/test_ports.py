"""Choosing and keeping loopback ports."""

from __future__ import annotations

import socket

import pytest

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.stores.embedded.ports import Reservation, choose, is_free


def test_a_taken_port_is_never_chosen() -> None:
    port = choose([])
    assert choose([port]) == port
    assert choose([port], taken={port}) != port


def test_a_reserved_port_is_refused_to_strangers_and_given_to_its_server() -> None:
    port, reservation = choose([]), Reservation()
    reservation.hold("127.0.0.1", port)
    try:
        assert not is_free(port, lingering=False)
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        with socket.socket() as server, socket.socket() as client:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", port))
            server.listen()
            client.connect(("127.0.0.1", port))
            accepted, _ = server.accept()
            accepted.close()
    finally:
        reservation.release()
    assert is_free(port)


def test_reserving_a_port_that_somebody_holds_is_an_error_that_names_the_setting() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="AGENTCY_PORT"):
            Reservation().hold("127.0.0.1", holder.getsockname()[1])
