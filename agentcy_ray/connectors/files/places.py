"""Where files lie: a folder, or objects below a prefix. Both are listed in one order."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.files.beneath import list_beneath, open_beneath
from agentcy_ray.connectors.objects import ObjectReads
from agentcy_ray.connectors.paths import PathFilter
from agentcy_ray.core.errors import NotFoundError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder or a file. ``path`` is relative to the root, whose own path is empty."""

    path: bytes
    kind: Literal["folder", "file"]
    size: int | None = None
    """In bytes; None when it takes a read to know."""
    mtime_ns: int | None = None
    """Nanoseconds since 1970; None when it is not known, so that content must be compared."""
    fault: str | None = None
    """Why a folder cannot be listed."""

    @property
    def order(self) -> tuple[bytes, ...]:
        """Sort key of a walk: a folder comes right before what is in it."""
        return parts_of(self.path)


def parts_of(path: bytes) -> tuple[bytes, ...]:
    """The components of a relative path; none for the root."""
    return tuple(path.split(b"/")) if path else ()


class Place(Protocol):
    """Lists and reads, from a thread."""

    @property
    def name(self) -> str:
        """Name of the root folder."""
        ...

    def entries(self, keep: Keep) -> Iterator[Entry]:
        """The root, then everything that is kept, in the order of ``Entry.order``."""
        ...

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Content of a file; None when it holds more than ``limit`` bytes.

        Raises:
            OSError: it cannot be read, is no regular file, or a link is in the way.
        """
        ...


class Keep:
    """Which paths are read: some glob includes the file, none excludes it or a folder above."""

    def __init__(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        self._include = PathFilter(include)
        # "build/**" means the folder too: nothing in it is read, so it need not be listed.
        whole = [glob.removesuffix("/**") for glob in exclude]
        self._exclude = PathFilter([*exclude, *whole]) if exclude else None
        self.some = bool(self._include)
        """Whether only included files count, so that a folder without one is left out."""

    def here(self, path: bytes) -> bool:
        """Whether a path is not excluded by itself; folders above it are asked on their own."""
        return self._exclude is None or not self._exclude(path)

    def file(self, path: bytes) -> bool:
        """Whether a file is read, when no folder above it is excluded."""
        return self.here(path) and self._include(path)

    def whole(self, path: bytes) -> bool:
        """Whether a file is read, its folders asked too."""
        parts = path.split(b"/")
        above = (b"/".join(parts[:end]) for end in range(1, len(parts)))
        return all(map(self.here, above)) and self.file(path)


class FolderPlace:
    """A folder of this server. Links are not followed: what they name is read where it lies."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self._root.name or "/"

    def check(self) -> None:
        """See that the folder can be listed.

        Raises:
            SourceConfigError: it cannot.
        """
        try:
            with os.scandir(self._root):
                pass
        except OSError as error:
            raise fault(
                "config",
                f"the folder {self._root} cannot be listed ({error.strerror}); name one that"
                " exists and that the service may read",
                loc="root",
            ) from error

    def entries(self, keep: Keep) -> Iterator[Entry]:
        """Walk without recursion, holding one listing per level."""
        return needed_folders(self._walk(keep), keep)

    def _walk(self, keep: Keep) -> Iterator[Entry]:
        yield Entry(b"", "folder")
        levels = [iter(self._listing(b"", keep))]
        while levels:
            entry = next(levels[-1], None)
            if entry is None:
                levels.pop()
                continue
            yield entry
            if entry.kind == "folder" and entry.fault is None:
                levels.append(iter(self._listing(entry.path, keep)))

    def _listing(self, path: bytes, keep: Keep) -> list[Entry]:
        try:
            handle = list_beneath(self._root, path)
            try:
                with os.scandir(handle) as found:
                    entries = [self._entry(item, path, keep) for item in found]
            finally:
                os.close(handle)
        except OSError as error:
            return [Entry(path, "folder", fault=error.strerror or str(error))]
        return sorted((e for e in entries if e is not None), key=lambda entry: entry.path)

    def _entry(self, item: os.DirEntry[str], path: bytes, keep: Keep) -> Entry | None:
        name = os.fsencode(item.name)
        full = b"/".join((path, name)) if path else name
        if item.is_dir(follow_symlinks=False):
            return Entry(full, "folder") if keep.here(full) else None
        if not item.is_file(follow_symlinks=False) or not keep.file(full):
            return None  # links, sockets, devices, pipes
        try:
            about = item.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None  # gone since it was listed
        return Entry(full, "file", about.st_size, about.st_mtime_ns)

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Read a regular file below the root; see ``Place``."""
        handle = open_beneath(self._root, path, os.O_RDONLY)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(f"{os.fsdecode(path)} is no regular file")
            data = file.read(limit + 1)
        return None if len(data) > limit else data


class ObjectPlace:
    """Objects below a prefix, read from a thread through the loop that owns the store."""

    def __init__(self, objects: ObjectReads, prefix: str, loop: asyncio.AbstractEventLoop) -> None:
        self._objects = objects
        self._prefix = prefix if prefix.endswith("/") else f"{prefix}/"
        self._loop = loop

    @property
    def name(self) -> str:
        """Last part of the prefix."""
        return self._prefix.rstrip("/").rpartition("/")[2]

    def entries(self, keep: Keep) -> Iterator[Entry]:
        """Objects as files, and the folders that their keys imply."""
        return needed_folders(self._walk(keep), keep)

    def _walk(self, keep: Keep) -> Iterator[Entry]:
        yield Entry(b"", "folder")
        keys = self._await(self._objects.list(self._prefix))
        paths = (key.removeprefix(self._prefix).encode() for key in keys)
        known: set[bytes] = set()
        for parts in sorted(path.split(b"/") for path in paths if path):
            if not keep.whole(b"/".join(parts)):
                continue
            for end in range(1, len(parts)):
                folder = b"/".join(parts[:end])
                if folder not in known:
                    known.add(folder)
                    yield Entry(folder, "folder")
            yield Entry(b"/".join(parts), "file")

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Read an object; one that is too large is left after ``limit`` bytes."""
        return self._await(self._read(self._prefix + path.decode(), limit))

    async def _read(self, key: str, limit: int) -> bytes | None:
        data = bytearray()
        try:
            async for piece in self._objects.stream(key):
                data += piece
                if len(data) > limit:
                    return None
        except NotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "the object is gone") from error
        return bytes(data)

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def needed_folders(entries: Iterator[Entry], keep: Keep) -> Iterator[Entry]:
    """Drop folders without a file in them when only some files are read."""
    waiting: list[Entry] = []
    for entry in entries:
        if not keep.some or entry.path == b"":
            yield entry
            continue
        waiting = [f for f in waiting if entry.path.startswith(f.path + b"/")]
        if entry.kind == "folder" and entry.fault is None:
            waiting.append(entry)
        else:
            yield from waiting
            waiting = []
            yield entry
