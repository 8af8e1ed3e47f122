"""Lines that a commit added and deleted: on request, and as git itself counts them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentcy_ray.connectors.base import Mode
from tests.connectors.git.repos import Repo
from tests.connectors.git.test_git_extract import extracted, opened

TEXT = b"one\ntwo\nthree\n"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo.git")


def counted(graph: Any) -> dict[tuple[str, str], tuple[int, int] | None]:
    """(commit, path) → lines, for each change."""
    return {
        (key[1], key[4]): (edge["added_lines"], edge["deleted_lines"])
        if "added_lines" in edge
        else None
        for key, edge in graph.edges.items()
        if key[2] == "TOUCHES"
    }


async def test_changes_carry_no_counts_unless_asked(repo):
    sha = repo.commit({"a.txt": TEXT})
    assert counted(await extracted(await opened(repo))) == {(sha, "a.txt"): None}


async def test_lines_are_counted_by_kind_of_change(repo):
    first = repo.commit({"a.txt": TEXT, "gone.txt": TEXT, "move.txt": b"1\n2\n", "no-end": b"x"})
    second = repo.commit({
        "a.txt": b"one\n2\nthree\nfour\n", "gone.txt": None, "move.txt": None,
        "moved.txt": b"1\n2\n", "no-end": b"x\ny",
    })  # fmt: skip
    graph = await extracted(await opened(repo, line_counts=True))
    assert counted(graph) == {
        (first, "a.txt"): (3, 0),
        (first, "gone.txt"): (3, 0),
        (first, "move.txt"): (2, 0),
        (first, "no-end"): (1, 0),
        (second, "a.txt"): (2, 1),
        (second, "gone.txt"): (0, 3),
        (second, "move.txt"): (0, 0),
        (second, "moved.txt"): (0, 0),
        (second, "no-end"): (2, 1),
    }


async def test_what_has_no_lines_has_no_counts(repo):
    big = b"line\n" * 300_000
    sha = repo.commit({
        "binary": b"\0\1\2", "link": ("link", b"a.txt"), "big.txt": big,
        "module": ("module", "1" * 40), "latin.txt": "Grüße\n".encode("latin-1"),
    })  # fmt: skip
    graph = await extracted(await opened(repo, line_counts=True))
    assert counted(graph) == {
        (sha, "binary"): None,
        (sha, "link"): None,
        (sha, "big.txt"): None,
        (sha, "module"): None,
        (sha, "latin.txt"): (1, 0),
    }


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git itself")
async def test_the_counts_are_those_of_git(repo):
    body = [f"line {n}\n" for n in range(200)]
    shas = []
    for step in range(8):
        body = body[step:] + [f"new {step} {n}\n" for n in range(step * 3)]
        body[step * 7 % len(body)] = f"changed {step}\n"
        shas.append(repo.commit({"f.txt": "".join(body).encode()}))
    graph = await extracted(await opened(repo, line_counts=True))
    found = counted(graph)
    for sha in shas:
        shown = subprocess.run(
            ["git", "-C", str(repo.path), "show", "--numstat", "--format=", sha],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        assert found[sha, "f.txt"] == (int(shown[0]), int(shown[1]))


async def test_asking_for_them_later_reads_everything_again(repo):
    repo.commit({"a.txt": TEXT})
    graph = await extracted(await opened(repo))
    session = await opened(repo, line_counts=True)
    modes = [
        item async for item in session.extract(graph.cursors, full=False) if isinstance(item, Mode)
    ]
    assert [(mode.full, mode.note) for mode in modes] == [(True, "the config changed")]
