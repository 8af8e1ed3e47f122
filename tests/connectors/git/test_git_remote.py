"""Repositories behind a URL: mirrored, typed when they cannot be, pushed to."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from werkzeug import Response

from agentcy_ray.connectors.base import Mode, Progress
from agentcy_ray.connectors.git import GitConnector
from agentcy_ray.connectors.git.config import GitConfig, Remote
from agentcy_ray.connectors.git.gate import Gate
from agentcy_ray.connectors.git.mirror import Mirror, talking
from agentcy_ray.core.errors import ConnectorError, SourceConfigError
from tests.connectors.git.repos import Repo
from tests.connectors.git.server import GitServer
from tests.connectors.graph import extracted, open_session
from tests.egress import loopback_guard
from tests.wire import wire

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="the test's server is git's own")


@pytest.fixture
def repo(tmp_path) -> Repo:
    (tmp_path / "served").mkdir()
    made = Repo(tmp_path / "served/repo.git")
    made.commit({"a.txt": b"one\n"})
    made.commit({"a.txt": b"two\n"})
    return made


@pytest.fixture
def server(tmp_path, repo):
    running = GitServer(tmp_path / "served")
    yield running
    running.close()


def token(value: str = "token") -> dict[str, str]:
    return {"kind": "https_token", "token": value}


async def opened(url: str, tmp_path, **config):
    return await open_session(GitConnector(), {"url": url, **config}, tmp_path / "work")


@needs_git
async def test_a_url_is_mirrored_and_then_fetched_by_difference(server, repo, tmp_path):
    session = await opened(server.url("repo.git"), tmp_path, auth=token())
    await session.check()
    items = [item async for item in session.extract({}, full=False)]
    assert isinstance(items[0], Mode)
    assert any(isinstance(item, Progress) and item.unit == "objects" for item in items)
    graph = await extracted(session)
    graph.check()
    assert graph.of("GitRepository").keys() == {server.url("repo.git")}
    assert len(graph.of("GitCommit")) == 2
    repo.point("topic", repo.tip())
    repo.commit({"b.txt": b"b\n"}, branch="topic")
    graph = await extracted(session, graph)
    assert not graph.mode.full
    assert graph.of("GitBranch").keys() == {"main", "topic"}
    repo.drop("refs/heads/topic")
    graph = await extracted(session, graph)
    assert graph.of("GitBranch").keys() == {"main"}
    assert len(graph.of("GitCommit")) == 2
    assert (await extracted(session, graph)).rows == 0


@needs_git
async def test_a_shallow_source_fetches_the_newest_commit_alone(server, repo, tmp_path):
    session = await opened(server.url("repo.git"), tmp_path, auth=token(), shallow=True)
    graph = await extracted(session)
    graph.check()
    assert graph.of("GitCommit").keys() == {repo.tip()}
    assert graph.documents["GitFile", "a.txt"] == "two\n"
    newest = repo.commit({"a.txt": b"three\n"})
    graph = await extracted(session, graph)
    assert graph.of("GitCommit").keys() == {newest}


@needs_git
@pytest.mark.requirement("CON-07")
@pytest.mark.parametrize("auth", [{"kind": "none"}, token("wrong")])
async def test_missing_and_wrong_credentials_are_told(server, tmp_path, auth):
    session = await opened(server.url("repo.git"), tmp_path, auth=auth)
    for act in (session.check, lambda: extracted(session)):
        with pytest.raises(SourceConfigError, match="credentials") as caught:
            await act()
        assert caught.value.details["kind"] == "credentials"
        assert "wrong" not in str(caught.value.body())


@needs_git
async def test_a_repository_that_the_server_lacks_is_a_config_fault(server, tmp_path):
    session = await opened(server.url("other.git"), tmp_path, auth=token())
    with pytest.raises(SourceConfigError, match="no repository at this URL") as caught:
        await session.check()
    assert caught.value.details["kind"] == "config"


@needs_git
async def test_a_branch_is_pushed_to_the_url_and_never_forced(server, repo, tmp_path):
    session = await opened(server.url("repo.git"), tmp_path, auth=token())
    files = [{"path": "a.txt", "content": "ours\n"}]
    await session.call("branch", {"name": "work"})
    done = await session.call("commit", {"branch": "work", "message": "m", "files": files})
    pushed = await session.call("push", {"branch": "work"})
    assert pushed["commit"] == repo.tip("work") == done["commit"]
    assert await session.call("push", {"branch": "work"}) == pushed
    repo.commit({"z": b"z\n"}, branch="work")
    files = [{"path": "a.txt", "content": "again\n"}]
    await session.call("commit", {"branch": "work", "message": "m", "files": files})
    with pytest.raises(ConnectorError, match="never forced"):
        await session.call("push", {"branch": "work"})


@pytest.mark.requirement("CON-07")
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "credentials"),
        (403, "scope"),
        (404, "config"),
        (429, "rate_limited"),
        (503, "unreachable"),
    ],
)
async def test_the_server_s_answer_becomes_a_kind_of_fault(httpserver, tmp_path, status, kind):
    httpserver.expect_request("/x.git/info/refs").respond_with_response(Response(status=status))
    session = await opened(httpserver.url_for("/x.git"), tmp_path, auth=token())
    with pytest.raises(SourceConfigError) as caught:
        await session.check()
    assert caught.value.details["kind"] == kind


@pytest.mark.requirement("CON-07")
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.git", "https://nowhere.invalid/x.git"])
async def test_an_unreachable_url_is_told(tmp_path, url):
    session = await opened(url, tmp_path)
    for act in (session.check, lambda: extracted(session), lambda: session.call("log", {})):
        with pytest.raises(SourceConfigError, match="HTTPS_PROXY") as caught:
            await act()
        assert caught.value.details["kind"] == "unreachable"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n"


@pytest.mark.parametrize("answer", [HEAD, HEAD + b"Content-Length: 99\r\n\r\n001e# service"])
async def test_a_server_that_never_ends_its_answer_frees_the_thread(answer, repo):
    async with wire() as server:
        server.answers["/x.git/info/refs?service=git-upload-pack"] = answer

        def ask():
            url = server.url("/x.git")
            with Gate(loopback_guard(), url, 0.3) as way, talking(url):
                repo.git.remotes.create_anonymous(way).list_heads()

        with pytest.raises(SourceConfigError, match=r"within 0\.3 s") as caught:
            await asyncio.to_thread(ask)
        assert caught.value.details["kind"] == "unreachable"


def test_a_mirror_follows_the_head_and_drops_what_is_gone(repo, tmp_path):
    (tmp_path / "work").mkdir()
    mirror = Mirror(
        Remote(str(repo.path)), GitConfig(url="https://x/y"), tmp_path / "work", loopback_guard()
    )
    assert mirror.age_secs() == float("inf")
    list(mirror.fetch())
    assert mirror.age_secs() < 600
    repo.point("next", repo.tip())
    repo.git.set_head("refs/heads/next")
    repo.drop("refs/heads/main")
    list(mirror.fetch())
    copy = mirror.repository()
    assert copy.listall_references() == ["refs/heads/next"]
    assert copy.head.shorthand == "next"


def test_a_fetch_that_is_left_early_leaves_a_usable_mirror(repo, tmp_path):
    (tmp_path / "work").mkdir()
    mirror = Mirror(
        Remote(str(repo.path)), GitConfig(url="https://x/y"), tmp_path / "work", loopback_guard()
    )
    fetch = mirror.fetch()
    next(fetch, None)
    fetch.close()
    list(mirror.fetch())
    assert str(mirror.repository().head.target) == repo.tip()
