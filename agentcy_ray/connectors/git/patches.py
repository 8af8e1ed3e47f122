"""Patches for people and models: bounded, and without a byte of a binary or huge file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pygit2
from pygit2 import enums

from agentcy_ray.connectors.git.files import DOCUMENT_BYTES, blob_size
from agentcy_ray.connectors.git.trees import SUBMODULE, Touch, Trees
from agentcy_ray.connectors.paths import decoded
from agentcy_ray.connectors.text import decode_text

PATCH_CHARS = 64 * 1024
FILES_MAX = 500


def below(path: bytes, folder: bytes | None) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; None holds every path."""
    return folder is None or path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def compared(
    repo: pygit2.Repository,
    old: pygit2.Commit | None,
    new: pygit2.Commit,
    keep: Callable[[bytes], bool],
) -> dict[str, Any]:
    """What differs between two commits, among the paths that ``keep`` lets through.

    Names at most ``FILES_MAX`` files and gives at most ``PATCH_CHARS`` of patch.

    Returns:
        ``{files: [{path, change}], total_files, patch, truncated}``.
    """
    changes = Trees(repo).changes(str(old.tree_id) if old else None, str(new.tree_id))
    touched = [touch for touch in changes if keep(touch.path)]
    files = [{"path": decoded(t.path), "change": t.change} for t in touched[:FILES_MAX]]
    parts: list[str] = []
    room = PATCH_CHARS
    for touch in touched[:FILES_MAX]:
        part = _patch(repo, touch)
        parts.append(part[:room])
        room -= len(part)
        if room <= 0:
            break
    return {
        "files": files,
        "total_files": len(touched),
        "patch": "".join(parts),
        "truncated": room <= 0 or len(touched) > FILES_MAX,
    }


def _patch(repo: pygit2.Repository, touch: Touch) -> str:
    path = decoded(touch.path)
    old = _content(repo, touch.old_blob, touch.old_mode)
    new = _content(repo, touch.blob, touch.mode)
    if old is None or new is None:
        return f"--- {path}\n(binary or large file, {touch.change})\n"
    patch = pygit2.Patch.create_from(old, new, path, path, enums.DiffOption.NORMAL).data
    return decoded(patch)


def _content(repo: pygit2.Repository, oid: str, mode: int) -> bytes | None:
    """A blob's bytes; empty when there is no blob on this side, None when it is not to be shown."""
    if not oid:
        return b""
    if mode == SUBMODULE:
        return f"Subproject commit {oid}\n".encode()
    if blob_size(repo, oid) > DOCUMENT_BYTES:
        return None
    data = repo.odb.read(oid)[1]
    return data if not data or decode_text(data) is not None or not data.strip() else None
