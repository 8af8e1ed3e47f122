"""The install's own secrets: from the settings, or made once and kept in the state folder."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import secrets as random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from agentcy_ray.core.errors import ConfigError, ConflictError
from agentcy_ray.core.settings import Settings, in_files, reread
from agentcy_ray.stores.keys.install import InstallKeys, key_id_of
from agentcy_ray.stores.keys.source import KEY_BYTES


@dataclass(frozen=True, slots=True)
class Secrets:
    """What signs tokens, and the first owner's password."""

    jwt_secret: str = field(repr=False)
    jwt_secret_previous: str | None = field(repr=False)
    admin_password: str = field(repr=False)
    admin_password_file: Path | None
    """Where the password lies when it was made here; None when it came from the settings."""


def resolve_secrets(settings: Settings) -> Secrets:
    """The secrets to use; what is not given is made once, in ``secrets.json`` (0600).

    Processes that start at the same time agree on one set.

    Raises:
        ConfigError: the database is external and JWT_SECRET or the key of data keys is missing
            (other machines that use this database could not know a made one); the file cannot be
            used.
    """
    _check(settings)
    given = {
        "jwt_secret": _reveal(settings.jwt_secret),
        "admin_password": _reveal(settings.admin_password),
    }
    missing = [name for name, value in given.items() if value is None]
    made = _kept(settings, missing) if missing else {}
    found = {name: value or made[name] for name, value in given.items()}
    return Secrets(
        jwt_secret=found["jwt_secret"],
        jwt_secret_previous=_reveal(settings.jwt_secret_previous),
        admin_password=found["admin_password"],
        admin_password_file=_path(settings) if "admin_password" in missing else None,
    )


def install_keys(settings: Settings) -> InstallKeys:
    """The install's key and the one before it, as they are now: files are read anew.

    Without ENCRYPTION_KEY and KMS_KEY_URI the key is made once, in ``secrets.json``.

    Raises:
        ConfigError: as ``resolve_secrets``; a key is malformed.
    """
    _check(settings)
    now = reread(settings, "encryption_key", "encryption_key_previous")
    key, previous = _reveal(now.encryption_key), _reveal(now.encryption_key_previous)
    if key is None:
        kept = _kept(settings, [] if settings.kms_key_uri else ["encryption_key"])
        key = kept.get("encryption_key")
        previous = previous or kept.get("encryption_key_previous")
    return InstallKeys(
        _key("ENCRYPTION_KEY", key) if key else None,
        _key("ENCRYPTION_KEY_PREVIOUS", previous) if previous else None,
    )


def keeps_own_key(settings: Settings) -> bool:
    """Whether the install's key is one that was made here."""
    return settings.encryption_key is None and settings.kms_key_uri is None


def keys_may_change(settings: Settings) -> bool:
    """Whether running processes may find another install key in a file."""
    return keeps_own_key(settings) or in_files("encryption_key", "encryption_key_previous")


def renew_install_key(settings: Settings) -> str:
    """Make a new install key in ``secrets.json``; the present one becomes the previous one.

    Running processes find it there within seconds. Gives the new key's id.

    Raises:
        ConfigError: the key comes from a setting; or the file cannot be used.
        ConflictError: there is a previous key still.
    """
    if not keeps_own_key(settings):
        raise ConfigError(
            "the key is given by ENCRYPTION_KEY or KMS_KEY_URI; set the new one there, the old one "
            "as …_PREVIOUS, and run `agentcy keys rotate`"
        )
    with _file(settings) as (kept, write):
        if "encryption_key_previous" in kept:
            raise ConflictError(
                "a former key is not given up yet; run `agentcy keys rotate`, then `agentcy keys "
                "forget`",
                code="state_conflict",
            )
        new = _make("encryption_key")
        former = {"encryption_key_previous": kept.get("encryption_key", _make("encryption_key"))}
        write({**kept, **former, "encryption_key": new})
    return key_id_of(_key("ENCRYPTION_KEY", new))


def forget_previous_key(settings: Settings, current: str) -> bool:
    """Remove the previous key from ``secrets.json``; False when there is none.

    Args:
        settings: say where the file is.
        current: id of the key that everything is under. Once another rotation has made a new one,
            the previous key of the file is the one that everything is under.

    Raises:
        ConfigError: the file cannot be used.
        ConflictError: ``current`` is not the current key any more.
    """
    with _file(settings) as (kept, write):
        if "encryption_key_previous" not in kept:
            return False
        if key_id_of(_key("ENCRYPTION_KEY", kept.get("encryption_key", ""))) != current:
            raise ConflictError(
                "a new key was made meanwhile; run `agentcy keys rotate`, then `agentcy keys"
                " forget` again",
                code="state_conflict",
            )
        write({name: kept[name] for name in kept if name != "encryption_key_previous"})
        return True


def _check(settings: Settings) -> None:
    faults = settings.cross_faults()
    if faults:
        raise ConfigError("settings are invalid:\n  " + "\n  ".join(faults), faults=faults)


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _path(settings: Settings) -> Path:
    return settings.state_dir / "secrets.json"


def _kept(settings: Settings, names: list[str]) -> dict[str, str]:
    """What the file holds; the named secrets are made and added where it lacks them."""
    if not names and not _path(settings).exists():
        return {}
    with _file(settings) as (kept, write):
        lacking = [name for name in names if name not in kept]
        if lacking:
            kept |= {name: _make(name) for name in lacking}
            write(kept)
        return kept


@contextmanager
def _file(
    settings: Settings,
) -> Generator[tuple[dict[str, str], Callable[[dict[str, str]], None]]]:
    """The file's content and what replaces it, while no other process does.

    It is replaced as a whole, so that whoever is killed meanwhile leaves the old one or the new.
    """
    path = _path(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when it is closed
            kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
            if type(kept) is not dict:
                raise ValueError(kept)
            yield kept, lambda content: _replace(path, json.dumps(content, indent=1))
        finally:
            os.close(lock)
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


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)  # of one who was killed
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # so that the new name survives a loss of power
    finally:
        os.close(folder)


def _make(name: str) -> str:
    if name == "encryption_key":
        return base64.b64encode(random.token_bytes(KEY_BYTES)).decode()
    return random.token_urlsafe(48 if name == "jwt_secret" else 15)


def _key(name: str, text: str) -> bytes:
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{name} must be {KEY_BYTES} bytes in base64; make one with: "
            "head -c 32 /dev/urandom | base64"
        )
    return key
