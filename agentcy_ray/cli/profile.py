"""Which server the command line talks to, and with which login."""

from __future__ import annotations

import asyncio
import fcntl
import os
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings


def server_url(settings: Settings) -> str:
    """The API's address: the setting, else that of the platform that runs on this state folder.

    Raises:
        ConfigError: the setting is no URL.
    """
    if settings.agentcy_url:
        parts = urlsplit(settings.agentcy_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(
                f"AGENTCY_URL is {settings.agentcy_url!r}; write it as http://127.0.0.1:8080"
            )
        return settings.agentcy_url.rstrip("/")
    running = read_json(settings.state_dir / "up.json")
    return str(running.get("url") or f"http://127.0.0.1:{settings.agentcy_port}")


def trusted(settings: Settings) -> ssl.SSLContext | bool:
    """Whom to believe: the usual issuers, and the certificate that this install shows itself."""
    if settings.agentcy_tls_cert is None:
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(Path(settings.agentcy_tls_cert).expanduser())
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def saved_login(settings: Settings, url: str) -> dict[str, str]:
    """Tokens of an earlier login at ``url``; empty without one."""
    return dict(read_json(_path(settings)).get(url, {}))


def save_login(settings: Settings, url: str, login: dict[str, str]) -> None:
    """Keep tokens for ``url``, readable by this user only."""
    path = _path(settings)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    logins = read_json(path)
    logins[url] = login
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.touch(mode=0o600)
    fresh.write_bytes(orjson.dumps(logins))
    fresh.replace(path)


@asynccontextmanager
async def only_renewal(settings: Settings) -> AsyncGenerator[None]:
    """Renew a login while no other command does: its refresh token works once."""
    path = _path(settings).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("wb") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)  # released when it is closed
        yield


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file or it is no JSON object."""
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _path(settings: Settings) -> Path:
    return settings.state_dir / "logins.json"
