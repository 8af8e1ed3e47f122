"""Where the API may listen: beyond this machine only by TLS, its own or that of a proxy in front.

Passwords and tokens travel in what it serves, so a bind to another address than loopback is refused
unless it has a certificate, or somebody has said that a TLS proxy is all that reaches it.
"""

from __future__ import annotations

import os
import ssl
from ipaddress import ip_address
from pathlib import Path

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings

PEM = "listener.pem"


def is_loopback(host: str) -> bool:
    """Whether nobody beyond this machine reaches ``host``; a name but ``localhost`` may be any."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_guarded(settings: Settings) -> None:
    """Return when the listener is on loopback, has TLS, or is said to have it in front.

    Raises:
        ConfigError: it would serve the network in clear text; or one of the two TLS files is
            missing, or they do not belong together.
    """
    if settings.agentcy_tls_cert is not None:
        _loaded(settings.agentcy_tls_cert, settings.agentcy_tls_key)
        return
    if settings.agentcy_tls_key is not None:
        raise ConfigError("AGENTCY_TLS_KEY is set without AGENTCY_TLS_CERT; name both files")
    if is_loopback(settings.agentcy_host) or settings.agentcy_behind_tls_proxy:
        return
    raise ConfigError(
        f"AGENTCY_HOST={settings.agentcy_host} listens beyond this machine without TLS. Give it a "
        "certificate by AGENTCY_TLS_CERT and AGENTCY_TLS_KEY; or, when only a TLS proxy reaches "
        "it, say so by AGENTCY_BEHIND_TLS_PROXY=true; or keep 127.0.0.1",
        code="listener_unguarded",
    )


def serve_host(settings: Settings, *, ha_proxy: bool) -> str:
    """Where Serve's own listeners go: those of the replicas, and of its proxy.

    They speak clear text and believe who connects, so where HAProxy stands in front of all of them,
    on one machine, it alone goes to the public address. Without it Serve's proxy is the listener;
    in a cluster of several machines the ingress of each reaches the replicas of all.
    """
    alone = ha_proxy and settings.ray_address is None
    return "127.0.0.1" if alone else settings.agentcy_host


def certificate(settings: Settings, home: Path) -> Path | None:
    """Chain and key in one file, as HAProxy reads them; mode 0600. None without TLS.

    It is copied when the platform starts: a renewed certificate is served after a restart.
    """
    if settings.agentcy_tls_cert is None:
        return None
    parts = [_read(settings.agentcy_tls_cert)]
    if settings.agentcy_tls_key is not None:
        parts.append(_read(settings.agentcy_tls_key))
    path = home / PEM
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"\n".join(part.strip() for part in parts) + b"\n")
    fresh.replace(path)
    return path


def _loaded(cert: str, key: str | None) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            Path(cert).expanduser(), None if key is None else Path(key).expanduser(), _no_password
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"AGENTCY_TLS_CERT and AGENTCY_TLS_KEY cannot be used: {error}; name the PEM files of "
            "a certificate chain and of its key, which must not ask for a password"
        ) from error


def _no_password() -> str:
    return ""  # without it OpenSSL would ask at the terminal


def _read(path: str) -> bytes:
    return Path(path).expanduser().read_bytes()
