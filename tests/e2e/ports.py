"""Every listening port of a platform's processes, and what it tells one who has no credential."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from tests.e2e.conftest import command

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@dataclass(frozen=True)
class Port:
    """A listener: of what process, and where."""

    owner: str
    ip: str
    number: int


def listening(processes: Iterable[psutil.Process]) -> list[Port]:
    """Listeners of these processes; those that end meanwhile have none."""
    found: set[Port] = set()
    for process in processes:
        try:
            connections, owner = process.net_connections("tcp"), _name(process)
        except psutil.NoSuchProcess:
            continue
        found |= {
            Port(owner, c.laddr.ip, c.laddr.port)
            for c in connections
            if c.status == psutil.CONN_LISTEN
        }
    return sorted(found, key=lambda port: (port.owner, port.number))


def _name(process: psutil.Process) -> str:
    """What a process is, without what differs from start to start."""
    words = command(process)
    known = (
        "gcs_server", "raylet", "haproxy", "postgres", "valkey", "arcadedb", "dashboard_agent",
        "runtime_env_agent", "ray::ServeReplica", "ray::ProxyActor", "ray::HAProxyManager",
        "ray::ServeController", "ray::", "agentcy_ray",
    )  # fmt: skip
    return next((name for name in known if name in words), process.name())


def says(port: Port, asked: bytes, limit: int = 65_536) -> bytes:
    """What the port answers to bytes until it is quiet for two seconds or closes."""
    heard = b""
    try:
        with socket.create_connection((port.ip, port.number), timeout=5) as talk:
            talk.settimeout(2)
            talk.sendall(asked)
            while len(heard) < limit and (piece := talk.recv(4096)):
                heard += piece
    except OSError:  # closed at once, or quiet: it says nothing
        return heard
    return heard


def http(port: Port, path: str) -> bytes:
    """The answer to a plain request."""
    return says(port, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())


def speaks_grpc(port: Port) -> bool:
    """Whether it answers the preface of HTTP/2 with settings, as gRPC servers do."""
    answer = says(port, _PREFACE + _SETTINGS, limit=9)
    if len(answer) < 9:
        return False
    (kind,) = struct.unpack_from("B", answer, 3)
    return kind == 4
