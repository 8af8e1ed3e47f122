"""How many lines a commit added to a file and took from it.

Unlike everything else that history gives, this reads contents, so it is done only when asked for
(``line_counts`` of the config).
"""

from __future__ import annotations

import pygit2
from pygit2 import enums

from agentcy_ray.connectors.git.files import DOCUMENT_BYTES, blob_size
from agentcy_ray.connectors.git.trees import LINK, SUBMODULE, Touch

_NO_LINES = {LINK, SUBMODULE}
_BINARY_LOOK = 8000
"""Bytes in which git looks for a NUL to call a file binary."""


def count_lines(repo: pygit2.Repository, touch: Touch) -> tuple[int, int] | None:
    """(added, deleted) lines, as ``git log --numstat`` has them.

    A file that moved unchanged counts nothing, on either path. For a merge it is the difference
    from the first parent.

    Returns:
        None for what has no lines: links, submodules, binary files, files beyond 1 MiB.
    """
    if touch.old is not None or touch.new is not None:
        return 0, 0
    old = _content(repo, touch.old_blob, touch.old_mode)
    new = _content(repo, touch.blob, touch.mode)
    if old is None or new is None:
        return None
    patch = pygit2.Patch.create_from(old, new, flag=enums.DiffOption.NORMAL, context_lines=0)
    _, added, deleted = patch.line_stats
    return added, deleted


def _content(repo: pygit2.Repository, oid: str, mode: int) -> bytes | None:
    if not oid:
        return b""
    if mode in _NO_LINES or blob_size(repo, oid) > DOCUMENT_BYTES:
        return None
    data = repo.odb.read(oid)[1]
    return None if b"\0" in data[:_BINARY_LOOK] else data
