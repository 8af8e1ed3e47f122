"""Copying objects between repositories of one machine, without a transport."""

from __future__ import annotations

import pygit2
from pygit2 import enums


def copy_objects(origin: pygit2.Repository, target: pygit2.Repository, oid: pygit2.Oid) -> None:
    """Copy what ``target`` lacks of a commit and all below it, children first.

    An object that is there is taken to be complete, as git keeps it.
    """
    stack: list[tuple[pygit2.Oid, bool]] = [(oid, False)]
    while stack:
        current, below_done = stack.pop()
        if target.odb.exists(current):
            continue
        if below_done:
            kind, data = origin.odb.read(current)
            target.odb.write(enums.ObjectType(kind), data)
            continue
        stack.append((current, True))
        stack += [(child, False) for child in _children(origin, current)]


def _children(repo: pygit2.Repository, oid: pygit2.Oid) -> list[pygit2.Oid]:
    found = repo[oid]
    if found.type == enums.ObjectType.COMMIT:
        commit = found.peel(pygit2.Commit)
        return [commit.tree_id, *commit.parent_ids]
    if found.type == enums.ObjectType.TREE:
        tree = found.peel(pygit2.Tree)
        return [entry.id for entry in tree if entry.filemode != enums.FileMode.COMMIT]
    return []
