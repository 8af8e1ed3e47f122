"""Keep the servers inside Ray's workers on loopback.

A Serve replica opens a gRPC server for calls between deployments on every address of the machine,
and has no setting for it. On a cluster of one machine this hook, run by Ray in each worker before
anything else, puts such servers on loopback; the token guards them in any case.
"""

from __future__ import annotations

from typing import Any

HOOK = "agentcy_ray.runtime.loopback.install"
_EVERYWHERE = ("[::]:", "0.0.0.0:")


def install() -> None:
    """Make Ray's helper for gRPC ports bind loopback instead of every address."""
    from ray._common import tls_utils

    original: Any = tls_utils.add_port_to_grpc_server

    def add_port_to_grpc_server(server: Any, address: str) -> int:
        for prefix in _EVERYWHERE:
            address = address.replace(prefix, "127.0.0.1:")
        return int(original(server, address))

    tls_utils.add_port_to_grpc_server = add_port_to_grpc_server
