"""The install's own secrets: from the settings, or made once and kept in the state folder."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import secrets as random
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings

ENCRYPTION_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Secrets:
    """What signs tokens, what wraps data keys, and the first owner's password."""

    jwt_secret: str = field(repr=False)
    jwt_secret_previous: str | None = field(repr=False)
    encryption_key: bytes = field(repr=False)
    encryption_key_previous: bytes | None = field(repr=False)
    admin_password: str = field(repr=False)
    admin_password_file: Path | None
    """Where the password lies when it was made here; None when it came from the settings."""


def resolve_secrets(settings: Settings) -> Secrets:
    """The secrets to use; what is not given is made once, in ``secrets.json`` (0600).

    Processes that start at the same time agree on one set.

    Raises:
        ConfigError: the database is external and JWT_SECRET or ENCRYPTION_KEY is missing (other
            machines that use this database could not know a made one); a key is malformed; the
            file cannot be used.
    """
    faults = settings.cross_faults()
    if faults:
        raise ConfigError("settings are invalid:\n  " + "\n  ".join(faults), faults=faults)
    given = {
        "jwt_secret": _reveal(settings.jwt_secret),
        "encryption_key": _reveal(settings.encryption_key),
        "admin_password": _reveal(settings.admin_password),
    }
    path = settings.state_dir / "secrets.json"
    missing = [name for name, value in given.items() if value is None]
    made = _kept(path, missing) if missing else {}
    found = {name: value or made[name] for name, value in given.items()}
    previous = _reveal(settings.encryption_key_previous)
    return Secrets(
        jwt_secret=found["jwt_secret"],
        jwt_secret_previous=_reveal(settings.jwt_secret_previous),
        encryption_key=_key("ENCRYPTION_KEY", found["encryption_key"]),
        encryption_key_previous=_key("ENCRYPTION_KEY_PREVIOUS", previous) if previous else None,
        admin_password=found["admin_password"],
        admin_password_file=path if "admin_password" in missing else None,
    )


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _kept(path: Path, names: list[str]) -> dict[str, str]:
    """The named secrets from the file, made and added where it lacks them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            text = file.read()
            kept: dict[str, str] = json.loads(text) if text else {}
            lacking = [name for name in names if name not in kept]
            if lacking:
                kept |= {name: _make(name) for name in lacking}
                file.seek(0)
                file.write(json.dumps(kept, indent=1))
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            return kept
    except OSError as error:
        raise ConfigError(
            f"cannot keep secrets in {path}: {error.strerror}; set AGENTCY_STATE_DIR to a folder "
            "of your own, or give JWT_SECRET, ENCRYPTION_KEY and ADMIN_PASSWORD"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged; restore it from a backup: without its encryption key the "
            "stored credentials cannot be opened"
        ) from error


def _make(name: str) -> str:
    if name == "encryption_key":
        return base64.b64encode(random.token_bytes(ENCRYPTION_KEY_BYTES)).decode()
    return random.token_urlsafe(48 if name == "jwt_secret" else 15)


def _key(name: str, text: str) -> bytes:
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != ENCRYPTION_KEY_BYTES:
        raise ConfigError(
            f"{name} must be {ENCRYPTION_KEY_BYTES} bytes in base64; make one with: "
            "head -c 32 /dev/urandom | base64"
        )
    return key
