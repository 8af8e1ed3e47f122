"""Tools of a repository: reading is bounded, writing happens in a clone of our own."""

from __future__ import annotations

import pytest

from agentcy_ray.connectors.git import GitConnector
from agentcy_ray.core.errors import ConnectorError, NotFoundError, ToolArgumentsError
from tests.connectors.git.repos import Repo
from tests.connectors.graph import extracted, open_session

CHANGE = {"branch": "work", "message": "Change\n", "files": [{"path": "a.txt", "content": "new\n"}]}


@pytest.fixture
def repo(tmp_path) -> Repo:
    made = Repo(tmp_path / "repo", bare=False)
    made.commit({"a.txt": b"one\n", "src/b.py": b"x = 1\ny = 2\n"}, author="Ada")
    made.commit({"src/b.py": b"x = 1\ny = 3\n"}, author="Bob", message="Raise y\n\nBy one.\n")
    return made


@pytest.fixture
async def session(repo, tmp_path):
    config = {"url": str(repo.path)}
    return await open_session(GitConnector(), config, tmp_path / "work", tmp_path)


async def test_log_lists_the_newest_first_and_filters(session, repo):
    listed = await session.call("log", {})
    assert [commit["title"] for commit in listed["commits"]] == ["Raise y", "Change"]
    assert listed["commits"][0]["author"] == "Bob <bob@x.org>"
    assert not listed["truncated"]
    for args, found in (
        ({"limit": 1}, ["Raise y"]),
        ({"path": "a.txt"}, ["Change"]),
        ({"path": "src"}, ["Raise y", "Change"]),
        ({"author": "ADA"}, ["Change"]),
        ({"since": "2023-11-14T22:14:30Z"}, ["Raise y"]),
        ({"until": "2023-11-14T22:14:30Z"}, ["Change"]),
    ):
        commits = (await session.call("log", args))["commits"]
        assert [commit["title"] for commit in commits] == found, args
    with pytest.raises(ToolArgumentsError, match="RFC 3339"):
        await session.call("log", {"since": "yesterday"})
    with pytest.raises(NotFoundError, match="no branch"):
        await session.call("log", {"ref": "nope"})


async def test_show_and_diff_name_files_and_give_a_patch(session, repo):
    shown = await session.call("show", {"ref": "main"})
    assert shown["description"] == "Raise y\n\nBy one."
    assert shown["files"] == [{"path": "src/b.py", "change": "modified"}]
    assert "-y = 2\n+y = 3\n" in shown["patch"]
    compared = await session.call("diff", {"from": "main~1", "path": "a.txt"})
    assert (compared["files"], compared["patch"]) == ([], "")
    assert (await session.call("diff", {"from": "main~1"}))["total_files"] == 1


async def test_patches_are_bounded_and_never_hold_binary_content(session, repo):
    repo.commit({"big.txt": b"line\n" * 40_000, "logo.png": b"\x89PNG\x00"})
    shown = await session.call("show", {"ref": "main"})
    assert shown["truncated"]
    assert len(shown["patch"]) <= 64 * 1024
    only = await session.call("show", {"ref": "main", "path": "logo.png"})
    assert "binary or large" in only["patch"]


async def test_a_file_is_read_at_any_commit(session, repo):
    read = await session.call("file", {"path": "src/b.py", "ref": "main~1", "start_line": 2})
    assert (read["text"], read["total_lines"]) == ("y = 2\n", 2)
    with pytest.raises(NotFoundError):
        await session.call("file", {"path": "src"})
    with pytest.raises(ToolArgumentsError, match="no path inside"):
        await session.call("file", {"path": "../secret"})
    repo.commit({"logo.png": b"\x89PNG\x00"})
    assert (await session.call("file", {"path": "logo.png"}))["text"] is None


async def test_grep_finds_lines_in_text_files(session, repo):
    repo.commit({"logo.png": b"x = 1\x00"})
    found = await session.call("grep", {"pattern": "^x", "path_glob": "*.py"})
    assert found["matches"] == [{"path": "src/b.py", "line": 1, "text": "x = 1"}]
    cut = await session.call("grep", {"pattern": " = ", "limit": 1})
    assert (len(cut["matches"]), cut["truncated"]) == (1, True)


async def test_a_branch_is_committed_to_and_pushed_without_touching_the_working_copy(session, repo):
    head = repo.tip()
    (repo.path / "a.txt").write_text("being edited\n")
    made = await session.call("branch", {"name": "work"})
    assert made == {"branch": "work", "commit": head}
    done = await session.call("commit", CHANGE)
    assert done["parents"] == [head]
    assert repo.tip("work") is None
    assert (await session.call("file", {"path": "a.txt", "ref": "work"}))["text"] == "new\n"
    assert "+new" in (await session.call("diff", {"from": "main", "to": "work"}))["patch"]
    pushed = await session.call("push", {"branch": "work"})
    assert pushed["commit"] == repo.tip("work") == done["commit"]
    assert (repo.path / "a.txt").read_text() == "being edited\n"
    assert repo.tip() == head
    graph = await extracted(session)
    assert graph.of("GitBranch")["work"]["head_sha"] == done["commit"]
    assert "Agentcy <agentcy@localhost>" in graph.of("GitAuthor")


async def test_a_repeated_key_gives_the_former_answer_and_no_second_effect(session, repo):
    base = await session.call("branch", {"name": "work"}, idempotency_key="k1")
    repo.commit({"c": b"later\n"})
    assert await session.call("branch", {"name": "work"}, idempotency_key="k1") == base
    first = await session.call("commit", CHANGE, idempotency_key="k2")
    assert await session.call("commit", CHANGE, idempotency_key="k2") == first
    log = await session.call("log", {"ref": "work"})
    assert [commit["sha"] for commit in log["commits"]].count(first["commit"]) == 1
    assert len(log["commits"]) == 3
    other = CHANGE | {"files": [{"path": "a.txt", "content": "other\n"}]}
    second = await session.call("commit", other, idempotency_key="k3")
    assert second["parents"] == [first["commit"]]
    pushed = await session.call("push", {"branch": "work"}, idempotency_key="k4")
    assert await session.call("push", {"branch": "work"}, idempotency_key="k4") == pushed


async def test_an_unchanged_tree_is_not_committed(session):
    await session.call("branch", {"name": "work"})
    await session.call("commit", CHANGE)
    with pytest.raises(ConnectorError, match="nothing to commit"):
        await session.call("commit", CHANGE)


async def test_files_are_deleted_and_stay_executable(session, repo):
    repo.commit({"run.sh": ("exec", b"#!/bin/sh\n")})
    files = [{"path": "a.txt", "delete": True}, {"path": "run.sh", "content": "#!/bin/bash\n"}]
    done = await session.call("commit", {"branch": "main", "message": "m", "files": files})
    await session.call("push", {"branch": "main", "to": "new"})
    tree = repo.git[done["commit"]].tree
    assert "a.txt" not in tree
    assert tree["run.sh"].filemode == 0o100755
    gone = [{"path": "nope", "delete": True}]
    with pytest.raises(ToolArgumentsError, match="no such file"):
        await session.call("commit", CHANGE | {"branch": "main", "files": gone})


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", ".git/config", "x/.GIT/y", "a//b", "a\\b"])
async def test_paths_outside_of_the_tree_are_refused(session, path):
    await session.call("branch", {"name": "work"})
    files = [{"path": path, "content": "x"}]
    with pytest.raises(ToolArgumentsError, match="no path inside"):
        await session.call("commit", CHANGE | {"files": files})


async def test_branch_names_that_git_refuses_are_refused(session):
    for name in ("-f", "a..b", "a b", "a.lock", "refs/../x", "x~1"):
        with pytest.raises(ToolArgumentsError, match="no branch name"):
            await session.call("branch", {"name": name})
    await session.call("branch", {"name": "work", "from": "main~1"})
    with pytest.raises(ConnectorError, match="another commit"):
        await session.call("branch", {"name": "work", "from": "main"})


async def test_a_checked_out_branch_is_not_pushed_to(session, repo):
    await session.call("commit", CHANGE | {"branch": "main"})
    with pytest.raises(ConnectorError, match="checked out"):
        await session.call("push", {"branch": "main"})
    assert (await session.call("push", {"branch": "main", "to": "ours"}))["branch"] == "ours"


async def test_a_push_never_rewrites_what_is_there(session, repo):
    repo.point("work", repo.tip())
    await session.call("commit", CHANGE)
    theirs = repo.commit({"z": b"z\n"}, branch="work")
    with pytest.raises(ConnectorError, match="never forced"):
        await session.call("push", {"branch": "work"})
    assert repo.tip("work") == theirs
