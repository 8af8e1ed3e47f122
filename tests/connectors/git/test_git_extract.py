"""What a repository becomes, also a strange one."""

from __future__ import annotations

import pytest

from agentcy_ray.connectors.base import BATCH_BYTES, BATCH_ROWS, Batch, Mode
from agentcy_ray.connectors.git import GitConnector
from agentcy_ray.core.errors import ConnectorError, SourceConfigError
from tests.connectors.git.repos import Repo
from tests.connectors.graph import extracted, open_session

pytestmark = pytest.mark.requirement("CON-09")


@pytest.fixture
def repo(tmp_path) -> Repo:
    return Repo(tmp_path / "repo")


async def opened(repo: Repo, **config):
    root = repo.path.parent
    url = {"url": str(repo.path)}
    return await open_session(GitConnector(), url | config, root / "work", root)


@pytest.mark.requirement("CTX-04")
async def test_a_repository_yields_every_label_and_edge(repo):
    first = repo.commit({"README.md": b"# Hi\n", "src/app.py": b"print(1)\n"}, author="Ada")
    repo.point("topic", first)
    side = repo.commit(
        {"src/new.py": b"x\n"}, branch="topic", author="Bob", message="Add\n\nWhy.\n"
    )
    second = repo.commit({"src/app.py": None}, author="Ada")
    tip = repo.commit({}, parents=[second, side], message="Merge\n")
    repo.tag("v1", second)
    repo.tag("v2", tip, "Second release\n\nNotes.\n")
    graph = await extracted(await opened(repo))
    graph.check()
    assert graph.mode == Mode(True, "read from the beginning")
    [(url, node)] = graph.of("GitRepository").items()
    assert url == str(repo.path)
    assert (node["name"], node["default_branch"], node["head_sha"]) == ("repo", "main", tip)
    assert node["url"].startswith("file://")
    assert graph.of("GitBranch").keys() == {"main", "topic"}
    assert graph.of("GitTag")["v2"]["title"] == "Second release"
    assert graph.of("GitTag")["v1"]["annotated"] is False
    commit = graph.of("GitCommit")[side]
    assert (commit["title"], commit["description"]) == ("Add", "Add\n\nWhy.")
    assert commit["authored_at"].endswith("Z")
    assert graph.of("GitAuthor").keys() == {"Ada <ada@x.org>", "Bob <bob@x.org>"}
    files = graph.of("GitFile")
    assert files["src/app.py"] == {
        "labels": ["GitFile"], "name": "src/app.py", "path": "src/app.py",
        "language": "Python", "at_head": False,
    }  # fmt: skip
    assert (files["README.md"]["size"], files["README.md"]["language"]) == (5, "Markdown")
    assert graph.ends("AUTHORED_BY") >= {(first, "Ada <ada@x.org>"), (side, "Bob <bob@x.org>")}
    assert graph.ends("PARENT_OF") == {
        (first, side), (first, second), (second, tip), (side, tip),
    }  # fmt: skip
    assert graph.ends("TAGGED_AS") == {(second, "v1"), (tip, "v2")}
    assert graph.ends("ON_BRANCH") == {
        (first, "main"), (second, "main"), (side, "main"), (tip, "main"), (side, "topic"),
    }  # fmt: skip
    # The merge was made on top of a tree without the topic's file: it deletes it again.
    assert graph.ends("CONTAINS_FILE") == {(url, "README.md")}
    touches = {
        key[1::3]: change["change"] for key, change in graph.edges.items() if key[2] == "TOUCHES"
    }
    assert touches == {
        (first, "README.md"): "added",
        (first, "src/app.py"): "added",
        (side, "src/new.py"): "added",
        (second, "src/app.py"): "deleted",
    }
    assert graph.documents == {("GitFile", "README.md"): "# Hi\n"}


async def test_a_moved_file_is_renamed_and_says_from_where(repo):
    repo.commit({"old/name.py": b"a = 1\n", "other.py": b"b\n"})
    sha = repo.commit({"old/name.py": None, "new/name.py": b"a = 1\n"})
    graph = await extracted(await opened(repo))
    edge = ("GitCommit", sha, "TOUCHES", "GitFile")
    assert graph.edges[*edge, "new/name.py"] == {"change": "renamed", "old_path": "old/name.py"}
    assert graph.edges[*edge, "old/name.py"] == {"change": "deleted", "new_path": "new/name.py"}


async def test_an_octopus_merge_touches_only_what_differs_from_every_parent(repo):
    base = repo.commit({"a": b"1\n", "b": b"1\n", "c": b"1\n"})
    arms = []
    for name in ("a", "b", "c"):
        repo.point(name, base)
        arms.append(repo.commit({name: b"2\n"}, branch=name))
    merged = {"a": b"2\n", "b": b"2\n", "c": b"2\n", "d": b"only the merge\n"}
    tip = repo.commit(merged, parents=arms)
    graph = await extracted(await opened(repo))
    assert {pair for pair in graph.ends("PARENT_OF") if pair[1] == tip} == {(a, tip) for a in arms}
    assert {pair for pair in graph.ends("TOUCHES") if pair[0] == tip} == {(tip, "d")}


async def test_an_empty_repository_is_one_node_and_grows_from_there(repo):
    session = await opened(repo)
    await session.check()
    graph = await extracted(session)
    assert [key[0] for key in graph.nodes] == ["GitRepository"]
    assert (await extracted(session, graph)).rows == 0
    repo.commit({"a": b"a\n"})
    assert "a" in (await extracted(session, graph)).of("GitFile")


async def test_binary_and_huge_files_are_nodes_without_a_document(repo):
    huge = repo.path.parent / "huge.bin"
    with huge.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    blob = str(repo.git.create_blob_fromdisk(str(huge)))
    index = {"logo.png": b"\x89PNG\x00\x00", "text.txt": b"t\n", "empty": b"", "blank": b" \n"}
    tree = repo.tree(index)
    import pygit2

    builder = repo.git.TreeBuilder(repo.git[tree])
    builder.insert("huge.bin", pygit2.Oid(hex=blob), 0o100644)
    who = pygit2.Signature("Ada", "ada@x.org", repo.now, 0)
    repo.git.create_commit("refs/heads/main", who, who, "Add\n", builder.write(), [])
    graph = await extracted(await opened(repo))
    assert graph.of("GitFile")["huge.bin"]["size"] == 100 * 1024 * 1024
    assert graph.documents.keys() == {("GitFile", "text.txt")}


async def test_links_and_submodules_are_nodes_of_their_kind(repo):
    repo.commit({"a": b"a\n", "way": ("link", b"a"), "lib": ("module", "1" * 40)})
    graph = await extracted(await opened(repo))
    files = graph.of("GitFile")
    assert (files["way"]["kind"], files["way"]["target"]) == ("symlink", "a")
    assert (files["lib"]["kind"], files["lib"]["target"]) == ("submodule", "1" * 40)
    assert graph.documents.keys() == {("GitFile", "a")}


async def test_names_and_messages_that_are_not_utf8_keep_their_bytes(repo):
    repo.commit({b"caf\xe9/x.txt": b"x\n", "plain.txt": b"p\n"})
    sha = repo.raw_commit(
        b"author J\xf6rg <j@x> 5 +0000\ncommitter C <c@x> 5 +0000\n\nr\xe9sum\xe9\n"
    )
    declared = repo.raw_commit(
        b"author A <a@x> 5 +0000\ncommitter C <c@x> 5 +0000\nencoding ISO-8859-1\n\nr\xe9sum\xe9\n"
    )
    repo.raw_branch(b"f\xff", sha)
    session = await opened(repo)
    graph = await extracted(session)
    graph.check()
    key = "hex:" + b"caf\xe9/x.txt".hex()
    assert graph.of("GitFile")[key]["path"] == "caf\ufffd/x.txt"
    assert graph.documents["GitFile", key] == "x\n"
    commit = graph.of("GitCommit")[sha]
    assert (commit["title"], commit["message_hex"]) == ("r\ufffdsum\ufffd", b"r\xe9sum\xe9\n".hex())
    assert graph.of("GitCommit")[declared]["title"] == "résumé"
    assert "J\ufffdrg <j@x>" in graph.of("GitAuthor")
    assert graph.of("GitBranch")["hex:66ff"]["head_sha"] == sha
    assert (await extracted(session, graph)).rows == 0


async def test_a_commit_that_touches_fifty_thousand_files_streams(repo):
    inner = {f"f{n}.txt": b"same\n" for n in range(250)}
    import pygit2

    folder = repo.tree(inner)
    root = repo.git.TreeBuilder()
    for n in range(200):
        root.insert(f"d{n:03}", folder, 0o040000)
    who = pygit2.Signature("Ada", "ada@x.org", repo.now, 0)
    repo.commit({"a": b"a\n"})
    repo.git.create_commit("refs/heads/wide", who, who, "All\n", root.write(), [])
    session = await opened(repo)
    counts: dict[str, int] = {}
    async for item in session.extract({}, full=True):
        if isinstance(item, Batch):
            counts[item.kind] = counts.get(item.kind, 0) + item.rows.num_rows
            assert item.rows.num_rows <= BATCH_ROWS
            assert item.rows.nbytes <= 1.1 * BATCH_BYTES
    assert counts["nodes"] == 50_000 + 7
    assert counts["edges"] == 50_000 + 6


async def test_globs_choose_files_and_leave_the_history_whole(repo):
    repo.commit({"docs/a.md": b"a\n", "src/b.py": b"b\n"})
    repo.commit({"src/b.py": b"c\n"})
    graph = await extracted(await opened(repo, include_path_globs=["docs/**"]))
    assert graph.of("GitFile").keys() == {"docs/a.md"}
    assert len(graph.of("GitCommit")) == 2
    assert len(graph.ends("TOUCHES")) == 1


async def test_the_mailmap_joins_the_names_of_one_person(repo):
    repo.commit({"a": b"1\n"}, author="ada l")
    session = await opened(repo)
    graph = await extracted(session)
    repo.commit({".mailmap": b"Ada <ada@x.org> ada l <ada.l@x.org>\n"}, author="Ada")
    graph = await extracted(session, graph)
    assert graph.mode == Mode(True, "the mailmap changed")
    assert graph.of("GitAuthor").keys() == {"Ada <ada@x.org>"}


async def test_rewritten_history_and_lost_tips_are_read_in_full(repo):
    first = repo.commit({"a": b"1\n"})
    repo.commit({"a": b"2\n"})
    session = await opened(repo)
    graph = await extracted(session)
    repo.point("main", first)
    repo.commit({"a": b"3\n"})
    graph = await extracted(session, graph)
    assert graph.mode == Mode(True, "the history of main was rewritten")
    graph.cursors["git"]["branches"]["main"] = "2" * 40
    graph = await extracted(session, graph)
    assert graph.mode == Mode(True, "a former tip is gone from the repository")


async def test_a_deleted_branch_takes_what_only_it_knew(repo):
    base = repo.commit({"a": b"1\n"})
    repo.point("topic", base)
    lost = repo.commit({"b": b"1\n"}, branch="topic", author="Guest")
    session = await opened(repo)
    graph = await extracted(session)
    assert "Guest <guest@x.org>" in graph.of("GitAuthor")
    repo.drop("refs/heads/topic")
    graph = await extracted(session, graph)
    assert not graph.mode.full
    assert graph.of("GitBranch").keys() == {"main"}
    assert graph.of("GitAuthor").keys() == {"Ada <ada@x.org>"}
    assert lost not in graph.of("GitCommit")
    assert graph.of("GitFile").keys() == {"a"}


async def test_a_branch_claims_a_bounded_part_of_what_the_trunk_lacks(repo):
    base = repo.commit({"a": b"1\n"})
    repo.point("long", base)
    for _ in range(510):
        repo.commit({}, branch="long")
    graph = await extracted(await opened(repo))
    assert len([pair for pair in graph.ends("ON_BRANCH") if pair[1] == "long"]) == 500


async def test_a_ref_chooses_the_files(repo):
    first = repo.commit({"a": b"1\n"})
    repo.tag("v1", first)
    repo.commit({"b": b"2\n"})
    for ref in ("v1", first, first[:10]):
        graph = await extracted(await opened(repo, ref=ref))
        assert {pair[1] for pair in graph.ends("CONTAINS_FILE")} == {"a"}
        assert len(graph.ends("ON_BRANCH")) == 2


async def test_missing_repositories_and_refs_are_config_faults(repo, tmp_path):
    repo.commit({"a": b"1\n"})
    (tmp_path / "plain").mkdir()
    for path in ("nowhere", "plain"):
        session = await open_session(
            GitConnector(), {"url": str(tmp_path / path)}, tmp_path / "work", tmp_path
        )
        for act in (
            session.check,
            lambda s=session: extracted(s),
            lambda s=session: s.call("log", {}),
        ):
            with pytest.raises(SourceConfigError, match="no git repository") as caught:
                await act()
            assert caught.value.details["kind"] == "config"
    session = await opened(repo, ref="mian")
    with pytest.raises(SourceConfigError, match="did you mean main"):
        await session.check()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"url": "ftp://x/y.git"}, "no repository URL"),
        ({"url": "https://user:pw@x/y.git"}, "do not belong into the URL"),
        ({"url": "https://token@x/y.git"}, "do not belong into the URL"),
        ({"url": "git@x.org:a/b.git"}, "ssh_key"),
        ({"url": "https://x/y", "auth": {"kind": "ssh_key", "private_key": "k"}}, "ssh URL"),
        ({"url": "http://x/y", "auth": {"kind": "https_token", "token": "t"}}, "https only"),
        ({"url": "/etc"}, "SOURCE_FILE_ROOTS"),
        ({"url": "file:///etc"}, "SOURCE_FILE_ROOTS"),
    ],
)
def test_urls_that_cannot_work_are_refused_without_reaching_out(config, what, tmp_path):
    from agentcy_ray.connectors.base import SessionContext

    with pytest.raises(SourceConfigError, match=what) as caught:
        GitConnector().validate(config, SessionContext("0" * 32, tmp_path, (tmp_path,)))
    assert caught.value.details["kind"] == "config"
    assert caught.value.details["errors"]


async def test_a_worktree_that_keeps_its_data_outside_of_the_roots_is_refused(repo, tmp_path):
    repo.commit({"a": b"1\n"})
    inside = tmp_path / "inside"
    inside.mkdir()
    repo.git.add_worktree("w", str(inside / "w"))
    session = await open_session(
        GitConnector(), {"url": str(inside / "w")}, tmp_path / "work", inside
    )
    with pytest.raises(SourceConfigError, match="outside of SOURCE_FILE_ROOTS"):
        await session.check()


async def test_a_repository_that_borrows_objects_from_outside_of_the_roots_is_refused(
    repo, tmp_path
):
    """A text file does it, so whoever may write files below a root could read on from there."""
    tip = repo.commit({"a": b"canary\n"})
    inside = tmp_path / "inside"
    for name, objects in (("near", "../../far/objects"), ("far", str(repo.path / "objects"))):
        borrowing = Repo(inside / name)
        (borrowing.path / "objects/info").mkdir(exist_ok=True)
        (borrowing.path / "objects/info/alternates").write_text(f"# from\n{objects}\n")
        (borrowing.path / "refs/heads/main").write_text(f"{tip}\n")
    for name in ("near", "far"):
        session = await open_session(
            GitConnector(), {"url": str(inside / name)}, tmp_path / "work", inside
        )
        with pytest.raises(SourceConfigError, match="outside of SOURCE_FILE_ROOTS"):
            await session.check()
    session = await open_session(
        GitConnector(), {"url": str(inside / "near")}, tmp_path / "work", tmp_path
    )
    await session.check()  # what it borrows from is below the roots


async def test_a_damaged_repository_is_a_connector_error(repo):
    repo.commit({"a": b"1\n"})
    repo.commit({"a": b"2\n"})
    tree = str(repo.git[repo.tip()].tree_id)
    (repo.path / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(ConnectorError, match="git fsck"):
        await extracted(await opened(repo))
