"""An incremental extract ends in the graph that a full one gives."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.connectors.git.connector import GitConnector
from tests.connectors.git.repos import Repo
from tests.connectors.graph import extracted, open_session

BRANCHES = ("main", "topic", "release/1", "old")
PATHS = ("a.md", "src/b.py", "src/c.py", "src/deep/d.go", "e", "e/f.txt")
CONTENTS = (
    b"one\n", b"two\n", b"\x00binary", b"", ("link", b"a.md"), ("exec", b"#!/bin/sh\n"),
    ("module", "1" * 40), b"caf\xe9 and more\n",
)  # fmt: skip

number = st.integers(0, 30)
branch = st.sampled_from(BRANCHES)
side_branch = st.sampled_from(BRANCHES[1:])
path = st.sampled_from(PATHS)
commit = st.tuples(
    st.just("commit"), branch, path,
    st.sampled_from(CONTENTS), st.sampled_from(("Ada", "Bob Oak", "Cy")),
)  # fmt: skip
step = st.one_of(
    commit,
    commit,
    st.tuples(st.just("delete"), branch, path),
    st.tuples(st.just("move"), branch, path, path),
    st.tuples(st.just("branch"), side_branch, number),
    st.tuples(st.just("drop"), side_branch),
    st.tuples(st.just("merge"), branch, st.sets(number, min_size=1, max_size=3)),
    st.tuples(st.just("tag"), st.sampled_from(("v1", "v2")), number, st.booleans()),
    st.tuples(st.just("untag"), st.sampled_from(("v1", "v2"))),
)
rare = st.one_of(st.tuples(st.just("head"), branch), st.tuples(st.just("branch"), branch, number))
steps = st.lists(st.one_of(step, step, step, rare), min_size=1, max_size=4)
START = [
    ("commit", "main", "a.md", b"one\n", "Ada"),
    ("commit", "main", "src/b.py", b"two\n", "Cy"),
    ("branch", "topic", 0),
    ("commit", "topic", "src/c.py", b"three\n", "Bob Oak"),
    ("tag", "v1", 0, True),
]
history = st.lists(steps, min_size=1, max_size=5)


class Story:
    """Applies steps; numbers choose among the commits made so far."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self.commits: list[str] = []

    def tell(self, step: tuple) -> None:
        getattr(self, step[0])(*step[1:])

    def files(self, branch: str) -> set[str]:
        tip = self.repo.tip(branch)
        return {path for path in PATHS if tip and path in self.repo.git[tip].tree}

    def commit(self, branch, path, content, author):
        clash = {"e": ["e/f.txt"], "e/f.txt": ["e"]}.get(path, [])
        present = self.files(branch)
        files = {other: None for other in clash if other in present and "/" in other}
        if path == "e/f.txt" and "e" in present and "e/f.txt" not in present:
            files["e"] = None
        self.commits.append(
            self.repo.commit({**files, path: content}, branch=branch, author=author)
        )

    def delete(self, branch, path):
        present = self.files(branch)
        if path in present and not (path == "e" and "e/f.txt" in present):
            self.commits.append(self.repo.commit({path: None}, branch=branch))

    def move(self, branch, old, new):
        present = self.files(branch)
        if old not in present or new in present or {old, new} & {"e", "e/f.txt"}:
            return
        entry = self.repo.git[self.repo.tip(branch)].tree[old]
        if entry.type_str == "blob" and entry.filemode == 0o100644:
            files = {old: None, new: entry.data}
            self.commits.append(self.repo.commit(files, branch=branch))

    def branch(self, branch, number):
        if self.commits:
            self.repo.point(branch, self.commits[number % len(self.commits)])

    def drop(self, branch):
        self.repo.drop(f"refs/heads/{branch}")

    def merge(self, branch, numbers):
        tip = self.repo.tip(branch)
        others = {self.commits[n % len(self.commits)] for n in numbers} if self.commits else set()
        parents = [tip, *sorted(others - {tip})] if tip else []
        if len(parents) > 1:
            self.commits.append(
                self.repo.commit({"a.md": b"merged\n"}, branch=branch, parents=parents)
            )

    def tag(self, name, number, annotated):
        if self.commits:
            sha = self.commits[number % len(self.commits)]
            self.repo.tag(name, sha, "A release\n" if annotated else None)

    def untag(self, name):
        self.repo.drop(f"refs/tags/{name}")

    def head(self, branch):
        self.repo.git.set_head(f"refs/heads/{branch}")


@pytest.mark.requirement("CON-09")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(history)
def test_random_histories_give_the_same_graph_in_steps_and_at_once(history):
    asyncio.run(_compare(history))


async def _compare(history) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        story = Story(Repo(root / "repo"))
        session = await open_session(
            GitConnector(), {"url": str(root / "repo")}, root / "work", root
        )
        graph = None
        for steps in ([*START], *history):
            for step in steps:
                story.tell(step)
            graph = await extracted(session, graph)
            whole = await extracted(session)
            graph.check()
            whole.check()
            assert graph.nodes == whole.nodes
            assert graph.edges == whole.edges
            assert graph.documents == whole.documents
            assert graph.cursors == whole.cursors
