"""Opening and replacing files below a folder, so that no link leads out of it.

Each component is opened relative to the one before and refused when it is a link. A check of the
resolved path beforehand would leave a moment in which a folder can be changed for a link.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_beneath(root: Path, path: bytes, flags: int) -> int:
    """A descriptor of a file below ``root``.

    Raises:
        OSError: it is not there, or a component is a link (``ELOOP``, ``ENOTDIR``).
    """
    with folder_beneath(root, path) as (folder, name):
        return os.open(name, flags | _SAFE, dir_fd=folder)


def list_beneath(root: Path, path: bytes) -> int:
    """A descriptor of a folder below ``root``, or of ``root`` itself when ``path`` is empty.

    Raises:
        OSError: as ``open_beneath``; or it is no folder.
    """
    return open_beneath(root, path, _FOLDER) if path else os.open(root, _FOLDER)


@contextmanager
def folder_beneath(
    root: Path, path: bytes, *, make: bool = False
) -> Generator[tuple[int, bytes], None, None]:
    """A descriptor of the folder that holds ``path``, and the last component of the path.

    Args:
        root: the folder to stay in.
        path: components separated by slashes; none may be empty, ``.`` or ``..``.
        make: create folders that are not there.
    """
    *folders, name = _components(path)
    handle = os.open(root, _FOLDER)
    try:
        for part in folders:
            if make:
                _make_folder(part, handle)
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle, name
    finally:
        os.close(handle)


def replace_beneath(root: Path, path: bytes, data: bytes) -> bool:
    """Write a file whole or not at all, creating its folders.

    Returns:
        Whether there was none before.

    Raises:
        OSError: a component is a link, or what is there is no regular file.
    """
    with folder_beneath(root, path, make=True) as (folder, name):
        mode = _mode_of(name, folder)
        spare = b".%s.%s" % (name[:200], secrets.token_hex(8).encode())
        created = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        handle = os.open(spare, created | _SAFE, 0o644 if mode is None else mode, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
            os.replace(spare, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(spare, dir_fd=folder)
            raise
        return mode is None


def _components(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    if any(part in (b"", b".", b"..") for part in parts) or b"\x00" in path:
        raise OSError(errno.EINVAL, "not a path below the root")
    return parts


def _make_folder(part: bytes, handle: int) -> None:
    try:
        os.mkdir(part, 0o755, dir_fd=handle)
    except FileExistsError:
        return


def _mode_of(name: bytes, folder: int) -> int | None:
    """Permissions of the file that is there, or None."""
    try:
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "there is something that is no regular file")
    return stat.S_IMODE(about.st_mode)
