"""Tools of a folder stay inside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcy_ray.connectors.files import FilesConnector
from agentcy_ray.core.errors import (
    AgentcyError,
    ConnectorError,
    NotFoundError,
    ToolArgumentsError,
    ToolNotFoundError,
)
from tests.connectors.graph import open_session


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs/guide.md").write_text("# Guide\nline two\nline three\n")
    (folder / "app.py").write_text("x = 'needle'\ny = 'Needle'\n")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("needle\n")
    (tmp_path / "secret.txt").write_text("needle outside\n")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "way").symlink_to(tmp_path)
    return folder


async def opened(root: Path, **config):
    return await open_session(
        FilesConnector(), {"root": str(root), **config}, root.parent / "work", root
    )


async def test_files_are_listed_read_and_searched(root):
    session = await opened(root)
    listed = await session.call("list_files", {})
    assert [item["path"] for item in listed["files"]] == ["app.py", "docs", "docs/guide.md"]
    part = await session.call("list_files", {"limit": 1})
    assert part["truncated"]
    text = await session.call("read_file", {"path": "docs/guide.md", "start_line": 2, "lines": 1})
    assert (text["text"], text["total_lines"], text["truncated"]) == ("line two\n", 3, True)
    found = await session.call("search_text", {"pattern": "needle", "ignore_case": True})
    assert [(m["path"], m["line"]) for m in found["matches"]] == [("app.py", 1), ("app.py", 2)]
    exact = await session.call("search_text", {"pattern": "^y = .N", "glob": "*.py"})
    assert [m["text"] for m in exact["matches"]] == ["y = 'Needle'"]


@pytest.mark.parametrize(
    "path", ["../secret.txt", "/etc/passwd", "docs/../../secret.txt", "a//b", "docs/\x00", "."]
)
async def test_paths_that_leave_the_root_are_refused(root, path):
    session = await opened(root, writable=True)
    with pytest.raises(ToolArgumentsError, match="no path below the root"):
        await session.call("read_file", {"path": path})
    with pytest.raises(ToolArgumentsError, match="no path below the root"):
        await session.call("write_file", {"path": path, "content": "x"})


@pytest.mark.parametrize("path", ["out.txt", "way/secret.txt"])
async def test_links_are_followed_by_neither_reading_nor_writing(root, path):
    session = await opened(root, writable=True)
    with pytest.raises(ToolArgumentsError, match="link"):
        await session.call("read_file", {"path": path})
    with pytest.raises(AgentcyError):
        await session.call("write_file", {"path": path, "content": "changed"})
    assert (root.parent / "secret.txt").read_text() == "needle outside\n"


async def test_what_the_source_leaves_out_is_neither_read_nor_written(root):
    session = await opened(root, writable=True)
    with pytest.raises(NotFoundError):
        await session.call("read_file", {"path": ".git/config"})
    with pytest.raises(ToolArgumentsError):
        await session.call("write_file", {"path": ".git/hooks/pre-commit", "content": "#!/bin/sh"})


async def test_writing_is_offered_only_when_the_source_is_writable(root):
    session = await opened(root)
    with pytest.raises(ToolNotFoundError):
        await session.call("write_file", {"path": "new.txt", "content": "x"})
    assert not (root / "new.txt").exists()


async def test_a_file_is_written_whole_and_keeps_its_mode(root):
    session = await opened(root, writable=True)
    made = await session.call("write_file", {"path": "new/deep/a.txt", "content": "é\n"})
    assert made == {"path": "new/deep/a.txt", "size": 3, "created": True}
    (root / "app.py").chmod(0o755)
    again = await session.call("write_file", {"path": "app.py", "content": "pass\n"})
    assert not again["created"]
    assert (root / "app.py").read_text() == "pass\n"
    assert (root / "app.py").stat().st_mode & 0o777 == 0o755
    assert {path.name for path in root.iterdir()} >= {"app.py", "new"}
    assert not [path for path in root.rglob(".*") if path.name.startswith(".app.py")]


async def test_folders_and_missing_files_are_told_apart(root):
    session = await opened(root, writable=True)
    with pytest.raises(NotFoundError, match="list the files"):
        await session.call("read_file", {"path": "nope.txt"})
    with pytest.raises(ConnectorError):
        await session.call("read_file", {"path": "docs"})
    with pytest.raises(ConnectorError):
        await session.call("write_file", {"path": "docs", "content": "x"})
    with pytest.raises(NotFoundError):
        await session.call("list_files", {"path": "nope"})


async def test_a_pattern_that_is_no_expression_is_explained(root):
    session = await opened(root)
    with pytest.raises(ToolArgumentsError, match="literal"):
        await session.call("search_text", {"pattern": "(unclosed"})
    with pytest.raises(ToolArgumentsError, match="literal"):
        await session.call("search_text", {"pattern": "(?=ahead)"})
    plain = await session.call("search_text", {"pattern": "x = '", "literal": True})
    assert len(plain["matches"]) == 1
