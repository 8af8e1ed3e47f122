"""Where the embedded servers keep what, below the state folder."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agentcy_ray.core.errors import ConfigError

SOCKET_PATH_LIMIT = 107
"""Longest path of a unix socket on Linux, bytes (``sun_path`` less its final zero)."""

LOG_LIMIT = 16 * 1024 * 1024
"""A log longer than this (bytes) is set aside as ``.old`` when its server starts."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below one state folder."""

    state_dir: Path

    @property
    def lock(self) -> Path:
        """Held (flock) by the supervisor for as long as it lives."""
        return self.state_dir / "embedded.lock"

    @property
    def record(self) -> Path:
        """What runs, where, with which passwords; mode 0600."""
        return self.state_dir / "embedded.json"

    @property
    def wants(self) -> Path:
        """One empty file per server that somebody asked a running supervisor to add."""
        return self.state_dir / "wants"

    def data(self, server: str) -> Path:
        """The folder of one server's data."""
        return self.state_dir / server

    def log(self, name: str) -> Path:
        """The log of one server, or of the supervisor."""
        return self.state_dir / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Create the state folder, 0700.

        Raises:
            ConfigError: it cannot be created, or others may write to it.
        """
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            facts = self.state_dir.stat()
            if stat.S_IMODE(facts.st_mode) & 0o077 and not any(self.state_dir.iterdir()):
                self.state_dir.chmod(0o700)  # a fresh volume; a folder in use is not ours to shut
            elif stat.S_IMODE(facts.st_mode) & 0o022:
                raise ConfigError(
                    f"others may write to {self.state_dir}; set AGENTCY_STATE_DIR to a folder of "
                    f"its own, or run: chmod 700 {self.state_dir}"
                )
            (self.state_dir / "logs").mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(
                f"cannot use {self.state_dir} as the state folder: {error.strerror or error}; "
                "set AGENTCY_STATE_DIR to a folder of your own"
            ) from error


def open_log(path: Path) -> int:
    """A descriptor that appends to ``path``, after setting an overlong log aside."""
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".log.old"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def tail(path: Path, start: int = 0, lines: int = 12) -> str:
    """The last lines of a log after byte ``start``; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(start, path.stat().st_size - 8192))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def run_dir(layout: Layout, earlier: str | None, owner: int) -> Path:
    """A folder for sockets that ``owner`` (a user id) reaches and whose path is short enough.

    Below the state folder when that works, else in the system's temporary folder, since a root
    install hands Postgres to a user who cannot enter a 0700 folder of root. ``earlier`` is the
    folder used last time; keeping it keeps URLs valid.
    """
    home = layout.state_dir / "run"
    fits = len(os.fsencode(home / ".s.PGSQL.65535")) <= SOCKET_PATH_LIMIT
    if fits and owner == os.geteuid():
        home.mkdir(exist_ok=True, mode=0o700)
        return home
    if earlier is not None and _is_private_dir(Path(earlier), owner):
        return Path(earlier)
    folder = Path(tempfile.mkdtemp(prefix="agentcy-"))
    if owner != os.geteuid():
        os.chown(folder, owner, -1)
    return folder


def _is_private_dir(folder: Path, owner: int) -> bool:
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(facts.st_mode)
        and facts.st_uid == owner
        and not stat.S_IMODE(facts.st_mode) & 0o077
    )


def kept_password(path: Path) -> str:
    """The password stored at ``path`` (0600), made on first use.

    It lies beside the data that it opens, so losing the record of what runs loses no access.
    """
    try:
        return path.read_text()
    except FileNotFoundError:
        password = secrets.token_urlsafe(24)
        write_private(path, password)
        return password


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step, readable by its owner only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
