"""Extract of a repository: everything, or the difference between two snapshots."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

import pygit2

from agentcy_ray.connectors.base import Checkpoint, ExtractItem, Mode, Progress
from agentcy_ray.connectors.conversion import Conversion
from agentcy_ray.connectors.git.faults import LIBRARY_ERRORS, reading
from agentcy_ray.connectors.git.files import (
    HeadPaths,
    blob_text,
    head_tree,
    write_head_file,
)
from agentcy_ray.connectors.git.history import History
from agentcy_ray.connectors.git.line_counts import count_lines
from agentcy_ray.connectors.git.rows import AUTHOR, BRANCH, COMMIT, FILE, TAG, Rows
from agentcy_ray.connectors.git.snapshot import Snapshot, read_mailmap
from agentcy_ray.connectors.git.trees import Touch
from agentcy_ray.connectors.paths import PathFilter, key_of

STREAM = "git"
FIRST = "read from the beginning"
"""Note of the mode of an extract that has nothing to compare with."""

_PROGRESS_EVERY = 1000

Items = Generator[ExtractItem, None, None]
Pairs = set[tuple[bytes, str]]


@dataclass
class Gone:
    """What a moved or deleted ref took away."""

    commits: set[str] = field(default_factory=set)
    authors: set[str] = field(default_factory=set)
    paths: set[bytes] = field(default_factory=set)


class Extraction:
    """One extract of one repository.

    Args:
        repo: the repository, used by this extract alone.
        repository_id: external id of its node.
        now: its refs at this moment.
        before: its refs at the last published extract; None = read everything.
        globs: paths to read.
        conversion: what pages are converted by.
        line_counts: whether changes carry how many lines they added and deleted.
    """

    def __init__(
        self,
        repo: pygit2.Repository,
        repository_id: str,
        now: Snapshot,
        before: Snapshot | None,
        globs: tuple[str, ...],
        conversion: Conversion,
        *,
        line_counts: bool = False,
    ) -> None:
        self._repo = repo
        self._conversion = conversion
        self._line_counts = line_counts
        self._history = History(repo)
        self._now = now
        self._before = before
        self._wanted = PathFilter(globs)
        self._rows = Rows(repository_id, read_mailmap(repo, now))
        self._head = HeadPaths(head_tree(repo, now.head))
        self._past: set[bytes] = set()

    def run(self) -> Items:
        """All items; the mode first, unless there is no ``before`` and the caller said it.

        Raises:
            ConnectorError: the repository is damaged.
        """
        before = self._before
        with reading("the repository"):
            if before is None:
                yield from self._everything()
            elif why := self._needs_full(before):
                yield Mode(full=True, note=why)
                yield from self._everything()
            else:
                yield from self._difference(before)
            yield from self._rows.finish()
        yield Checkpoint(STREAM, self._now.cursor())

    # -- everything

    def _everything(self) -> Items:
        now, rows = self._now, self._rows
        rows.repository(now)
        self._write_refs(now.branches, now.tags)
        for touch in self._history.changes(None, now.head):
            if self._wanted(touch.path):
                write_head_file(self._repo, rows, touch, self._conversion)
                yield from rows.drain()
        total = self._history.count(now.tips)
        yield from self._write_commits(now.tips, (), total)
        if now.trunk:
            for commit in self._history.walk([now.branches[now.trunk]]):
                rows.edge(COMMIT, str(commit.id), "ON_BRANCH", BRANCH, now.trunk)
                yield from rows.drain()
        self._write_pairs(self._history.side_branches(now))

    # -- the difference

    def _needs_full(self, before: Snapshot) -> str:
        """Why the difference to ``before`` cannot be read, or nothing."""
        now, repo = self._now, self._repo
        if before.settings != now.settings:
            return "the config changed"
        if before.mailmap != now.mailmap:
            return "the mailmap changed"
        if before.shallow != now.shallow:
            return "the shallow boundary moved"
        if before.trunk != now.trunk:
            return f"the default branch is now {now.trunk}"
        if any(tip not in repo for tip in before.tips):
            return "a former tip is gone from the repository"
        if before.trunk and now.trunk:
            old, new = before.branches[before.trunk], now.branches[now.trunk]
            if old != new and not repo.descendant_of(new, old):
                return f"the history of {now.trunk} was rewritten"
        return ""

    def _difference(self, before: Snapshot) -> Items:
        if before == self._now:
            yield Mode(full=False, note="no ref moved")
            return
        try:
            gone = self._gone(before)
            old_pairs = self._history.side_branches(before)
        except LIBRARY_ERRORS:
            # The repository pruned what no ref reaches any more: it cannot say what went.
            yield Mode(full=True, note="former history is gone from the repository")
            yield from self._everything()
            return
        yield Mode(full=False)
        now, rows = self._now, self._rows
        rows.repository(now)
        self._write_refs(*_moved_refs(before, now))
        self._tombstones(before, gone)
        yield from self._write_head_changes(before, gone)
        total = self._history.count(now.tips, before.tips)
        yield from self._write_commits(now.tips, before.tips, total)
        if now.trunk and before.trunk:
            old, new = before.branches[before.trunk], now.branches[now.trunk]
            for commit in self._history.walk([new], [old]):
                rows.edge(COMMIT, str(commit.id), "ON_BRANCH", BRANCH, now.trunk)
                yield from rows.drain()
        new_pairs = self._history.side_branches(now)
        self._write_pairs(new_pairs - old_pairs)
        for raw, name in sorted(old_pairs - new_pairs):
            if name in now.branches and raw.hex() not in gone.commits:
                rows.edge_gone(COMMIT, raw.hex(), "ON_BRANCH", BRANCH, name)

    def _gone(self, before: Snapshot) -> Gone:
        """Commits that no ref reaches any more, and authors and files that only they knew.

        Whether another commit still knows them is asked of the whole history, newest first, until
        every candidate was met; a ref that only moved forward takes nothing and costs nothing.
        """
        gone = Gone()
        for commit in self._history.walk(before.tips, self._now.tips):
            gone.commits.add(str(commit.id))
            gone.authors.add(self._rows.author_key(commit.author)[0])
            for touch in self._touches(commit):
                if self._wanted(touch.path) and touch.path not in self._head:
                    gone.paths.add(touch.path)
        for commit in self._history.walk(self._now.tips) if gone.authors else ():
            gone.authors.discard(self._rows.author_key(commit.author)[0])
            if not gone.authors:
                break
        for commit in self._history.walk(self._now.tips) if gone.paths else ():
            gone.paths.difference_update(touch.path for touch in self._touches(commit))
            if not gone.paths:
                break
        return gone

    def _tombstones(self, before: Snapshot, gone: Gone) -> None:
        now, rows = self._now, self._rows
        for name in before.branches.keys() - now.branches.keys():
            rows.gone(BRANCH, name)
        for name, (_, commit) in before.tags.items():
            if name not in now.tags:
                rows.gone(TAG, name)
            elif commit and commit != now.tags[name][1] and commit not in gone.commits:
                rows.edge_gone(COMMIT, commit, "TAGGED_AS", TAG, name)
        for label, keys in (
            (COMMIT, gone.commits),
            (AUTHOR, gone.authors),
            (FILE, {key_of(path) for path in gone.paths}),
        ):
            for key in sorted(keys):
                rows.gone(label, key)

    def _write_head_changes(self, before: Snapshot, gone: Gone) -> Items:
        repo, rows = self._repo, self._rows
        for touch in self._history.changes(before.head, self._now.head):
            if not self._wanted(touch.path) or touch.path in gone.paths:
                continue
            if touch.change == "deleted":
                self._write_past(touch.path)
                rows.not_contained(touch.path)
                has_text = False
            else:
                has_text = write_head_file(repo, rows, touch, self._conversion)
            had_text = (
                not has_text and touch.old_blob and blob_text(repo, touch.old_blob, touch.old_mode)
            )
            if had_text:
                rows.no_document(touch.path)
            yield from rows.drain()

    # -- both

    def _write_refs(
        self, branches: dict[str, str], tags: dict[str, tuple[str, str | None]]
    ) -> None:
        for name, sha in branches.items():
            self._rows.branch(name, sha, default=name == self._now.trunk)
        for name, (target, commit) in tags.items():
            self._rows.tag(self._repo, name, target, commit)
            if commit:
                self._rows.edge(COMMIT, commit, "TAGGED_AS", TAG, name)

    def _write_commits(self, tips: Iterable[str], hidden: Iterable[str], total: int) -> Items:
        rows = self._rows
        yield Progress(0, total, "commits")
        for done, commit in enumerate(self._history.walk(tips, hidden), 1):
            sha = str(commit.id)
            rows.commit(commit)
            parents = self._history.parents(commit)
            for parent in parents:
                rows.edge(COMMIT, str(parent.id), "PARENT_OF", COMMIT, sha)
            for touch in self._history.touches(commit, parents):
                if self._wanted(touch.path):
                    self._write_past(touch.path)
                    lines = count_lines(self._repo, touch) if self._line_counts else None
                    rows.touch(sha, touch, lines)
            yield from rows.drain()
            if done % _PROGRESS_EVERY == 0 or done == total:
                yield Progress(done, total, "commits")

    def _touches(self, commit: pygit2.Commit) -> list[Touch]:
        return self._history.touches(commit, self._history.parents(commit))

    def _write_past(self, path: bytes) -> None:
        """The node of a path that only history has, once."""
        if path not in self._past and path not in self._head:
            self._past.add(path)
            self._rows.past_file(path)

    def _write_pairs(self, pairs: Pairs) -> None:
        for raw, name in sorted(pairs):
            self._rows.edge(COMMIT, raw.hex(), "ON_BRANCH", BRANCH, name)


def _moved_refs(
    before: Snapshot, now: Snapshot
) -> tuple[dict[str, str], dict[str, tuple[str, str | None]]]:
    """Branches and tags that are new or name another commit."""
    branches = {name: sha for name, sha in now.branches.items() if before.branches.get(name) != sha}
    tags = {name: pair for name, pair in now.tags.items() if before.tags.get(name) != pair}
    return branches, tags
