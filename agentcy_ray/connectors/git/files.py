"""Files of a repository: which paths are read, what is at the head, and the text in it."""

from __future__ import annotations

import pygit2
from pygit2 import enums

from agentcy_ray.connectors.conversion import Conversion
from agentcy_ray.connectors.git.rows import Rows
from agentcy_ray.connectors.git.trees import LINK, SUBMODULE, Touch
from agentcy_ray.connectors.paths import decoded
from agentcy_ray.connectors.readable import UnreadableError, readable
from agentcy_ray.connectors.text import decode_text, file_type

DOCUMENT_BYTES = 1024 * 1024
"""Larger files become nodes without a document; they are never loaded."""


def blob_size(repo: pygit2.Repository, oid: pygit2.Oid | str) -> int:
    """Size of a blob in bytes, from its header alone."""
    return repo.odb.read_header(oid)[1]


def blob_text(repo: pygit2.Repository, oid: pygit2.Oid | str, mode: int) -> str | None:
    """The text of a file, or None when it is not one, too large, binary or blank."""
    if mode in (LINK, SUBMODULE) or blob_size(repo, oid) > DOCUMENT_BYTES:
        return None
    return decode_text(repo.odb.read(oid)[1])


def write_head_file(
    repo: pygit2.Repository, rows: Rows, touch: Touch, conversion: Conversion
) -> bool:
    """Write a file at the head: node, edge, and a document when it holds text.

    Args:
        repo: where its content lies.
        rows: what is written to.
        touch: the file.
        conversion: what pages are converted by.

    Returns:
        Whether it has a document.
    """
    raw, mode, oid = touch.path, touch.mode, touch.blob
    rows.contains(raw)
    if mode == SUBMODULE:
        rows.file(raw, mode, None, oid)
        return False
    size = blob_size(repo, oid)
    if mode == LINK:
        target = decoded(repo.odb.read(oid)[1]) if size <= 4096 else None
        rows.file(raw, mode, size, target)
        return False
    rows.file(raw, mode, size)
    text = blob_text(repo, oid, mode)
    if text is not None:
        rows.document(raw, *_for_people(decoded(raw), text, conversion))
    return text is not None


def _for_people(path: str, text: str, conversion: Conversion) -> tuple[str, str]:
    """Text and media type of a document: HTML as Markdown when it can be converted."""
    media_type = file_type(path).media_type
    if media_type == "text/html":
        try:
            page = readable(path, text.encode(), conversion)
        except UnreadableError:
            page = None  # tags and all, it can still be searched
        if page is not None:
            return page.text, page.media_type
    return text, media_type


class HeadPaths:
    """Which paths are at the head, remembered per path."""

    def __init__(self, tree: pygit2.Tree | None) -> None:
        self._tree = tree
        self._known: dict[bytes, bool] = {}

    def __contains__(self, raw: object) -> bool:
        """Whether a path is at the head."""
        assert isinstance(raw, bytes)
        known = self._known.get(raw)
        if known is None:
            known = self._known[raw] = tree_entry(self._tree, raw) is not None
        return known


def tree_entry(tree: pygit2.Tree | None, raw: bytes) -> pygit2.Object | None:
    """The entry of a tree at a path, or None; a folder is no entry."""
    if tree is None:
        return None
    try:
        path = raw.decode("utf-8")
    except UnicodeDecodeError:
        return _entry_by_bytes(tree, raw)
    try:
        entry = tree[path]
    except KeyError:
        return None
    return None if entry.filemode == enums.FileMode.TREE else entry


def _entry_by_bytes(tree: pygit2.Tree, raw: bytes) -> pygit2.Object | None:
    # pygit2 looks paths up as UTF-8 text; others are found by comparing names.
    head, _, rest = raw.partition(b"/")
    for entry in tree:
        if entry.raw_name == head:
            if not rest:
                return None if entry.filemode == enums.FileMode.TREE else entry
            return _entry_by_bytes(entry, rest) if isinstance(entry, pygit2.Tree) else None
    return None


def head_tree(repo: pygit2.Repository, head: str | None) -> pygit2.Tree | None:
    """The tree of a commit."""
    return repo[head].peel(pygit2.Tree) if head else None
