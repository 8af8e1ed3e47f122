"""Host keys for libgit2 when it talks to a stand-in of the real ssh server.

libgit2 looks a server up in ``~/.ssh/known_hosts`` by the host that it connects to, which is the
gate's loopback address. So it is given a home folder of its own, whose ``known_hosts`` says of that
address what the one of the service's user says of the real host. Which keys are accepted doesn't
change.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import hmac
import tempfile
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from shutil import rmtree
from threading import Lock

import pygit2

_PREFIX = "agentcy-git-home-"
_MAKING = Lock()
_MARKERS = ("@cert-authority", "@revoked")


class Introduced:
    """Entries that were made for one gate; ``close`` takes them back."""

    def __init__(self) -> None:
        self._name: str | None = None

    def add(self, host: str, port: int, gate_port: int) -> None:
        """Let libgit2 know the keys of ``host`` at the gate's port."""
        self._name = f"[127.0.0.1]:{gate_port}"
        home, user = _home()
        entries = [f"{self._name} {key}" for key in keys_of(user, host, port)]
        with _file(home) as lines:
            lines.extend(entries)

    def close(self) -> None:
        """Forget them."""
        if self._name is None:
            return
        name, self._name = f"{self._name} ", None
        with _file(_home()[0]) as lines:
            lines[:] = [line for line in lines if not line.startswith(name)]


def keys_of(home: Path, host: str, port: int) -> list[str]:
    """Keys (type, base64) that the ``known_hosts`` of a home folder has for a server."""
    names = [host] if port == 22 else [f"[{host}]:{port}"]
    found: list[str] = []
    revoked: set[str] = set()
    for marker, patterns, key in _entries(home / ".ssh" / "known_hosts"):
        if _matches(names, patterns):
            if marker == "@revoked":
                revoked.add(key)
            elif marker is None:
                found.append(key)
    return [key for key in dict.fromkeys(found) if key not in revoked]


def _entries(path: Path) -> Iterator[tuple[str | None, list[str], str]]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return
    for line in text.splitlines():
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0] in _MARKERS else None
        if len(fields) >= 3 and not fields[0].startswith("#"):
            yield marker, fields[0].split(","), f"{fields[1]} {fields[2]}"


def _matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    matched = False
    for name in names:
        for pattern in patterns:
            if pattern.startswith("!") and _is_like(name, pattern[1:]):
                return False
            matched = matched or _is_like(name, pattern)
    return matched


def _is_like(name: str, pattern: str) -> bool:
    if not pattern.startswith("|1|"):
        # In known_hosts a bracket is a bracket, not a set of letters as for fnmatch.
        return fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))
    try:
        salt, digest = (b64decode(part) for part in pattern[3:].split("|"))
    except (ValueError, Base64Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _home() -> tuple[Path, Path]:
    """libgit2's own home folder, and the one of the service's user.

    libgit2 keeps one home for the whole process; that it is ours shows by its name, and the user's
    stands beside the entries.
    """
    with _MAKING:
        now = Path(pygit2.settings.homedir or str(Path.home()))
        if now.name.startswith(_PREFIX):
            return now, Path((now / "user-home").read_text())
        made = Path(tempfile.mkdtemp(prefix=_PREFIX))
        atexit.register(rmtree, made, ignore_errors=True)
        (made / ".ssh").mkdir(mode=0o700)
        (made / "user-home").write_text(str(now))
        pygit2.settings.homedir = str(made)
        return made, now


@contextmanager
def _file(home: Path) -> Generator[list[str]]:
    """The lines of our ``known_hosts``, changed under a lock and put in place at once."""
    path = home / ".ssh" / "known_hosts"
    with (home / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = path.read_text().splitlines() if path.exists() else []
        yield lines
        part = path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in lines))
        part.replace(path)
