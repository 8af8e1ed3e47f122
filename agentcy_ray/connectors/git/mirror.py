"""Repositories on disk: a source in place, the mirror of a URL, and what talks to the URL."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pygit2
from pygit2 import enums

from agentcy_ray.connectors.base import Progress
from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.git.config import GitConfig, HttpsToken, Remote, SshKey
from agentcy_ray.connectors.git.faults import LIBRARY_ERRORS, remote_fault
from agentcy_ray.connectors.git.gate import Gate
from agentcy_ray.core.errors import AgentcyError, ConnectorError
from agentcy_ray.stores.egress import Guard

REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
CACHE_BYTES = 32 * 1024 * 1024
CONNECT_MILLIS, SERVER_MILLIS = 15_000, 60_000
_POLL_SECS = 0.5
CHECK_SECS, FETCH_SECS = 60.0, 6 * 3600.0
"""How long the refs of a server may take to come, and a fetch that is awaited by a sync."""
ALTERNATES = 5
"""How often libgit2 goes from one folder of objects to those that it borrows from."""


def open_local(path: Path, roots: tuple[Path, ...]) -> pygit2.Repository:
    """The repository in a folder (a working copy or a bare one), without looking further up.

    Raises:
        SourceConfigError: kind ``config``; there is none, or it keeps its data outside of the
            file roots (a linked worktree or a submodule does, and one with alternates may).
    """
    prepare_library()
    try:
        repo = pygit2.Repository(path, enums.RepositoryOpenFlag.NO_SEARCH)
    except LIBRARY_ERRORS as error:
        raise fault(
            "config",
            f"there is no git repository at {path} ({error}); name its working folder, or use the"
            " files connector for a folder without .git",
            loc="url",
        ) from error
    for folder in (Path(repo.path), *_object_folders(objects_folder(repo))):
        if not any(folder.resolve().is_relative_to(root.resolve()) for root in roots):
            raise fault(
                "config",
                f"the repository keeps its data in {folder}, outside of SOURCE_FILE_ROOTS;"
                " name that repository itself",
                loc="url",
            )
    return repo


def objects_folder(repo: pygit2.Repository) -> Path:
    """Where a repository keeps its objects; a linked worktree shares those of its main one."""
    common = Path(repo.path) / "commondir"
    base = Path(repo.path)
    if common.is_file():
        base = (base / common.read_text().strip()).resolve()
    return base / "objects"


def _object_folders(objects: Path, deep: int = ALTERNATES) -> Iterator[Path]:
    """A folder of objects, and those that it borrows from."""
    yield objects
    alternates = objects / "info" / "alternates"
    if deep and alternates.is_file():
        for line in alternates.read_text("utf-8", "surrogateescape").splitlines():
            if line and not line.startswith("#"):
                yield from _object_folders(objects / line, deep - 1)


@contextmanager
def locked(path: Path) -> Generator[None, None, None]:
    """Hold an exclusive lock file; other threads and processes of the machine wait."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Callbacks(pygit2.RemoteCallbacks):
    """Credentials (asked for once: a second question means a refusal) and progress."""

    def __init__(self, config: GitConfig, stop: Event | None = None) -> None:
        super().__init__()
        self._config = config
        self._stop = stop
        self._asked = False
        self.received = (0, 0)
        self.refused: str | None = None

    def credentials(
        self, url: str, username_from_url: str | None, allowed_types: enums.CredentialType
    ) -> pygit2.UserPass | pygit2.Username | pygit2.KeypairFromMemory:
        """What ``auth`` holds."""
        auth = self._config.auth
        if isinstance(auth, SshKey):
            name = username_from_url or auth.username
            if allowed_types == enums.CredentialType.USERNAME:
                return pygit2.Username(name)
            self._once()
            phrase = auth.passphrase.get_secret_value() if auth.passphrase else ""
            return pygit2.KeypairFromMemory(name, "", auth.private_key.get_secret_value(), phrase)
        self._once()
        if isinstance(auth, HttpsToken):
            return pygit2.UserPass(auth.username, auth.token.get_secret_value())
        raise fault(
            "credentials",
            f"{self._config.url} asks for credentials; give auth of kind https_token or ssh_key,"
            " and check the URL, since servers ask the same for what does not exist",
            loc="auth",
        )

    def certificate_check(self, certificate: None, valid: bool, host: bytes) -> bool:
        """Only what the library found valid: a certificate, or a key of ``known_hosts``."""
        return valid

    def transfer_progress(self, stats: pygit2.remotes.TransferProgress) -> None:
        """Note how far a fetch is, and end it when it is not wanted any more."""
        self.received = (stats.received_objects, stats.total_objects)
        if self._stop is not None and self._stop.is_set():
            raise ConnectorError("the fetch was stopped")

    def push_update_reference(self, refname: str, message: str | None) -> None:
        """Keep why the server refused a ref."""
        if message is not None:
            self.refused = message

    def _once(self) -> None:
        if self._asked:
            raise fault(
                "credentials",
                f"{self._config.url} refused the credentials in auth; renew them, and check that"
                " they reach this repository",
                loc="auth",
            )
        self._asked = True


class Mirror:
    """A bare copy of a URL's branches and tags under the source's work folder."""

    def __init__(self, remote: Remote, config: GitConfig, work_dir: Path, guard: Guard) -> None:
        self._remote = remote
        self._guard = guard
        self._config = config
        self._folder = work_dir / "mirror.git"
        self._lock = work_dir / "mirror.lock"
        self._stamp = self._folder / "fetched"

    def check(self) -> None:
        """Ask the server for its refs.

        Raises:
            SourceConfigError: it cannot be reached or refuses.
            EgressDeniedError: the source may not connect to it.
        """
        repo, url = self._open(), self._remote.url
        with Gate(self._guard, url, CHECK_SECS) as way, talking(url):
            remote = repo.remotes.create_anonymous(way)
            remote.list_heads(callbacks=Callbacks(self._config))

    def repository(self) -> pygit2.Repository:
        """The mirror as it is on disk."""
        return self._open()

    def age_secs(self) -> float:
        """Seconds since the last complete fetch; infinite when there was none."""
        try:
            return max(0.0, time.time() - self._stamp.stat().st_mtime)
        except FileNotFoundError:
            return float("inf")

    def fetch(self, secs: float = FETCH_SECS) -> Generator[Progress, None, None]:
        """Bring the mirror up to date; refs that are gone there go here.

        Args:
            secs: how long it may take.

        Raises:
            SourceConfigError: the server cannot be reached or refuses.
            EgressDeniedError: the source may not connect to it.
            ConnectorError: the fetch failed halfway; what was there before is intact.
        """
        stop = Event()
        callbacks = Callbacks(self._config, stop)
        with ThreadPoolExecutor(1, thread_name_prefix="git-fetch") as thread:
            job = thread.submit(self._fetch, callbacks, secs)
            try:
                while not _ended(job):
                    done, total = callbacks.received
                    yield Progress(done, total or None, "objects", "fetching")
            finally:
                stop.set()
            job.result()
        done, total = callbacks.received
        yield Progress(done, total, "objects", "fetched")

    def _fetch(self, callbacks: Callbacks, secs: float) -> None:
        with locked(self._lock):
            repo, url = self._open(), self._remote.url
            with Gate(self._guard, url, secs) as way, talking(url):
                remote = repo.remotes.create_anonymous(way)
                heads = remote.list_heads(callbacks=Callbacks(self._config))
                remote.fetch(
                    list(REFSPECS),
                    callbacks=callbacks,
                    prune=enums.FetchPrune.PRUNE,
                    depth=1 if self._config.shallow else 0,
                )
            for head in heads:
                if head.name == "HEAD" and head.symref_target:
                    repo.set_head(head.symref_target)
            self._stamp.touch()

    def _open(self) -> pygit2.Repository:
        prepare_library()
        try:
            repo = pygit2.Repository(self._folder, enums.RepositoryOpenFlag.NO_SEARCH)
        except LIBRARY_ERRORS:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            repo = pygit2.init_repository(self._folder, bare=True)
        if "origin" not in set(repo.remotes.names()):
            repo.remotes.create("origin", self._remote.url, fetch=REFSPECS[0])
        elif repo.remotes["origin"].url != self._remote.url:
            repo.remotes.set_url("origin", self._remote.url)
            self._stamp.unlink(missing_ok=True)
        return repo


@contextmanager
def talking(url: str) -> Generator[None, None, None]:
    """Turn what goes wrong on the wire into typed errors."""
    try:
        yield
    except AgentcyError:
        raise
    except LIBRARY_ERRORS as error:
        raise remote_fault(error, url) from error


def _ended(job: Future[None]) -> bool:
    try:
        job.exception(timeout=_POLL_SECS)
    except TimeoutError:
        return False
    return True


def prepare_library() -> None:
    """Settings of libgit2, which hold for the whole process; setting them again changes nothing."""
    # It runs nothing that a repository's config names, so whose folder it is matters not:
    # SOURCE_FILE_ROOTS is the permission.
    pygit2.settings.owner_validation = False
    # A walk meets each object once or twice: the default of 256 MiB only fills up.
    pygit2.settings.cache_max_size(CACHE_BYTES)
    # Without these a silent server would hold a thread for ever.
    pygit2.settings.server_connect_timeout = CONNECT_MILLIS
    pygit2.settings.server_timeout = SERVER_MILLIS
