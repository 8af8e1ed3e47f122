"""What a commit touched, and which commits lie where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pygit2
from pygit2 import enums

from agentcy_ray.connectors.git.snapshot import Snapshot
from agentcy_ray.connectors.git.trees import Touch, Trees

BRANCH_COMMITS = 500
"""Commits that a branch other than the trunk is said to hold beyond the trunk, nearest first."""

_EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


class History:
    """The commits of one repository."""

    def __init__(self, repo: pygit2.Repository) -> None:
        self._repo = repo
        self._trees = Trees(repo)

    def walk(self, tips: Iterable[str], hidden: Iterable[str] = ()) -> Iterator[pygit2.Commit]:
        """Commits that ``tips`` reach and ``hidden`` do not, one at a time, newest first."""
        walker = self._repo.walk(None, enums.SortMode.NONE)
        for tip in tips:
            walker.push(pygit2.Oid(hex=tip))
        for tip in hidden:
            walker.hide(pygit2.Oid(hex=tip))
        return iter(walker)

    def count(self, tips: Iterable[str], hidden: Iterable[str] = ()) -> int:
        """How many commits ``walk`` will give."""
        return sum(1 for _ in self.walk(tips, hidden))

    def parents(self, commit: pygit2.Commit) -> list[pygit2.Commit]:
        """Parents that are here; a shallow clone lacks those of its last commits."""
        repo = self._repo
        return [repo[oid].peel(pygit2.Commit) for oid in commit.parent_ids if oid in repo]

    def changes(self, old: str | None, new: str | None) -> Iterator[Touch]:
        """Paths that differ between the trees of two commits; None is the empty tree."""
        return self._trees.changes(self._tree_of(old), self._tree_of(new))

    def touches(self, commit: pygit2.Commit, parents: list[pygit2.Commit]) -> list[Touch]:
        """What a commit did to which paths.

        Against its parent; for a merge only what differs from every parent, as ``git log -c`` has
        it. A file that moved without a change of content is ``renamed``, its former path
        ``deleted``.
        """
        tree = str(commit.tree_id)
        bases = [str(parent.tree_id) for parent in parents]
        if len(bases) < 2:
            return _with_renames(list(self._trees.changes(bases[0] if bases else None, tree)))
        if tree in bases:
            return []
        found = {touch.path: touch for touch in self._trees.changes(bases[0], tree)}
        for base in bases[1:]:
            paths = {touch.path for touch in self._trees.changes(base, tree)}
            found = {path: touch for path, touch in found.items() if path in paths}
        return list(found.values())

    def side_branches(self, snapshot: Snapshot) -> set[tuple[bytes, str]]:
        """(commit, branch) for what each branch holds beyond the trunk, and for its tip.

        A function of the tips alone, so that an incremental extract can take the difference of
        two. At most ``BRANCH_COMMITS`` per branch: each stale branch off a lagging trunk would
        otherwise claim as many commits as the trunk lags.
        """
        trunk = [snapshot.branches[snapshot.trunk]] if snapshot.trunk else []
        tips = {name: tip for name, tip in snapshot.branches.items() if name != snapshot.trunk}
        beyond = {commit.id for commit in self.walk(set(tips.values()), trunk)}
        pairs: set[tuple[bytes, str]] = set()
        for name, tip in tips.items():
            start = pygit2.Oid(hex=tip)
            pairs.add((start.raw, name))
            seen, queue = {start}, [start] if start in beyond else []
            for oid in queue:  # breadth first: the list grows while it is read
                pairs.add((oid.raw, name))
                for parent in self._repo[oid].peel(pygit2.Commit).parent_ids:
                    if parent in beyond and parent not in seen and len(seen) < BRANCH_COMMITS:
                        seen.add(parent)
                        queue.append(parent)
        return pairs

    def _tree_of(self, commit: str | None) -> str | None:
        return str(self._repo[commit].peel(pygit2.Commit).tree_id) if commit else None


def _with_renames(found: list[Touch]) -> list[Touch]:
    """Mark moves: a path added with the very content that another lost in the same commit.

    Similarity is not looked for, since it reads both files.
    """
    lost = {
        touch.old_blob: touch.path
        for touch in reversed(found)
        if touch.change == "deleted" and touch.old_blob != _EMPTY_BLOB
    }
    if not lost or len(lost) == len(found):
        return found
    moved: dict[bytes, bytes] = {}
    for touch in found:
        if touch.change == "added" and touch.blob in lost:
            moved[lost.pop(touch.blob)] = touch.path
    if not moved:
        return found
    former = {new: old for old, new in moved.items()}
    return [_moved(touch, former.get(touch.path), moved.get(touch.path)) for touch in found]


def _moved(touch: Touch, old: bytes | None, new: bytes | None) -> Touch:
    if old is not None:
        return replace(touch, change="renamed", old=old)
    return touch if new is None else replace(touch, new=new)
