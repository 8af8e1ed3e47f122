"""Repositories made on the spot, through trees and commits alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pygit2
from pygit2 import enums

MODES = {
    "file": enums.FileMode.BLOB,
    "exec": enums.FileMode.BLOB_EXECUTABLE,
    "link": enums.FileMode.LINK,
    "module": enums.FileMode.COMMIT,
}


class Repo:
    """A bare repository under construction; time goes on by a minute per commit."""

    def __init__(self, path: Path, *, bare: bool = True, head: str = "main") -> None:
        self.path = path
        self.git = pygit2.init_repository(path, bare=bare, initial_head=head)
        self.now = 1_700_000_000

    def tip(self, branch: str = "main") -> str | None:
        found = self.git.references.get(f"refs/heads/{branch}")
        return str(found.target) if found else None

    def tree(self, files: dict[str | bytes, Any], base: str | None = None) -> pygit2.Oid:
        """A tree: ``base`` with files set (bytes, or (kind, bytes)) or removed (None)."""
        index = pygit2.Index()
        if base:
            index.read_tree(self.git[base].peel(pygit2.Tree))
        for path, content in files.items():
            if content is None:
                index.remove(path)
                continue
            kind, data = content if isinstance(content, tuple) else ("file", content)
            oid = pygit2.Oid(hex=data) if kind == "module" else self.git.create_blob(data)
            index.add(pygit2.IndexEntry(path, oid, MODES[kind]))
        return index.write_tree(self.git)

    def commit(
        self,
        files: dict[str | bytes, Any] | None = None,
        *,
        branch: str | None = "main",
        parents: list[str] | None = None,
        message: str = "Change\n",
        author: str = "Ada",
        base: str | None = None,
    ) -> str:
        self.now += 60
        if parents is None:
            tip = self.tip(branch) if branch else None
            parents = [tip] if tip else []
        tree = self.tree(files or {}, base or (parents[0] if parents else None))
        who = pygit2.Signature(author, f"{author.lower().replace(' ', '.')}@x.org", self.now, 0)
        ids = [pygit2.Oid(hex=parent) for parent in parents]
        oid = self.git.create_commit(None, who, who, message, tree, ids)
        if branch:
            self.point(branch, str(oid))
        return str(oid)

    def raw_commit(self, body: bytes, branch: str = "main") -> str:
        """A commit from the bytes after its ``tree`` and ``parent`` lines."""
        tip = self.tip(branch)
        tree = self.git[tip].peel(pygit2.Tree).id if tip else self.tree({"a": b"a\n"})
        head = f"tree {tree}\n" + (f"parent {tip}\n" if tip else "")
        oid = str(self.git.odb.write(enums.ObjectType.COMMIT, head.encode() + body))
        self.point(branch, oid)
        return oid

    def point(self, branch: str, sha: str) -> None:
        self.git.references.create(f"refs/heads/{branch}", pygit2.Oid(hex=sha), force=True)

    def tag(self, name: str, sha: str, message: str | None = None) -> None:
        target = pygit2.Oid(hex=sha)
        if message is not None:
            self.now += 60
            who = pygit2.Signature("Tagger", "tagger@x.org", self.now, 0)
            self.drop(f"refs/tags/{name}")
            self.git.create_tag(name, target, enums.ObjectType.COMMIT, who, message)
        else:
            self.git.references.create(f"refs/tags/{name}", target, force=True)

    def drop(self, ref: str) -> None:
        if self.git.references.get(ref) is not None:
            self.git.references.delete(ref)

    def raw_branch(self, name: bytes, sha: str) -> None:
        """A branch whose name is not UTF-8, which libgit2 does not write."""
        path = os.fsencode(self.git.path) + b"refs/heads/" + name
        Path(os.fsdecode(path)).write_text(f"{sha}\n")
