"""Main module of the graph server's process: ArcadeDB with Bolt and HTTP on loopback."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import psutil

from agentcy_ray.core.settings import export_environment

HEAP_SHARE = 6
"""A sixth of the machine's memory may be the server's: pages of a graph that does not fit are read
again and again, and writing a million nodes takes hours instead of minutes."""
HEAP_LEAST_MIB, HEAP_MOST_MIB = 1_024, 16_384
FLUSH_QUEUE = 4
"""Transactions whose pages wait for the disk, before a commit waits too. Each may hold hundreds of
MiB; the 512 that the server allows by itself fill its heap when a large graph is loaded."""


def main() -> None:
    """Serve until SIGTERM or SIGINT, then close the databases cleanly."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--bolt-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    given = parser.parse_args()

    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before the engine's threads inherit the mask

    # The library takes these from the environment only, when it is loaded.
    export_environment({
        "ARCADEDB_LOG_DIR": str(given.root / "log"),
        "ARCADEDB_NATIVE_ISOLATE_ARGS": (
            f"-Xmx{_heap_mib()}m -Darcadedb.pageFlushQueue={FLUSH_QUEUE}"
        ),
    })
    import arcadedb

    server = arcadedb.create_server(
        str(given.root),
        root_password=given.password_file.read_text(),
        config={
            "host": "127.0.0.1",
            "http_port": given.http_port,
            "mode": "development",  # production replaces every error message by a general one
            "server_plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
            "bolt_host": "127.0.0.1",
            "bolt_port": given.bolt_port,
            "server_defaultDatabases": f"{given.database}[root]",
            "bolt_defaultDatabase": given.database,
        },
    )
    server.start()
    signal.sigwait(ends)
    server.stop()


def _heap_mib() -> int:
    share = psutil.virtual_memory().total // HEAP_SHARE // 1024**2
    return min(max(share, HEAP_LEAST_MIB), HEAP_MOST_MIB)


if __name__ == "__main__":
    main()
