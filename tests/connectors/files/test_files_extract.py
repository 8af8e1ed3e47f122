"""What a folder becomes, and what an incremental extract reads again."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import shutil
import signal
import socket
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.connectors.base import Mode
from agentcy_ray.connectors.files import FilesConnector
from agentcy_ray.connectors.objects import OrgObjects
from agentcy_ray.core.errors import SourceConfigError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.objects import open_objects
from tests.connectors.graph import Graph, extracted, open_session


async def opened(root: Path, **config):
    return await open_session(
        FilesConnector(), {"root": str(root), **config}, root.parent / "work", root.parent
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.mark.requirement("CTX-04")
async def test_folders_contain_files_and_prose_is_a_document(root):
    (root / "docs").mkdir()
    (root / "docs/guide.md").write_text("# The guide\n\nBegin here.\n")
    (root / "app.py").write_text("print(1)\n")
    (root / "logo.png").write_bytes(b"\x89PNG\x00")
    graph = await extracted(await opened(root))
    graph.check()
    assert graph.ends("CONTAINS") == {
        (".", "docs"), ("docs", "docs/guide.md"), (".", "app.py"), (".", "logo.png"),
    }  # fmt: skip
    files = graph.of("File")
    assert files["docs/guide.md"]["labels"] == ["File", "Document"]
    assert files["docs/guide.md"]["title"] == "The guide"
    assert files["app.py"]["labels"] == ["File"]
    assert files["app.py"]["language"] == "Python"
    assert graph.documents.keys() == {("File", "docs/guide.md"), ("File", "app.py")}


async def test_html_pdf_and_office_files_become_text(root):
    import docx
    import openpyxl
    import pptx

    (root / "page.html").write_text("<title>Page</title><script>no()</script><p>Seen by people")
    report = docx.Document()
    report.add_paragraph("Words in a report")
    report.save(str(root / "report.docx"))
    deck = pptx.Presentation()
    deck.slides.add_slide(deck.slide_layouts[0]).shapes.title.text = "A slide"
    deck.save(str(root / "deck.pptx"))
    book = openpyxl.Workbook()
    book.active.append(["cell one", 2])
    book.save(root / "book.xlsx")
    (root / "paper.pdf").write_bytes(one_page_pdf("Printed words"))
    documents = (await extracted(await opened(root))).documents
    found = {key[1]: text for key, text in documents.items()}
    assert "Seen by people" in found["page.html"]
    assert "no()" not in found["page.html"]
    assert "Words in a report" in found["report.docx"]
    assert "A slide" in found["deck.pptx"]
    assert "cell one" in found["book.xlsx"]
    assert "Printed words" in found["paper.pdf"]


def one_page_pdf(text: str) -> bytes:
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    bodies = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R"
        b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + (
        b"xref\n0 5\n0000000000 65535 f \n%strailer<</Root 1 0 R/Size 5>>\nstartxref\n%d\n%%%%EOF"
        % (table, len(out))
    )


async def test_damaged_and_swollen_office_files_are_rejected_and_stay_as_nodes(root):
    (root / "broken.docx").write_bytes(b"PK\x03\x04 not a document")
    (root / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\x00" * (70 * 1024 * 1024))
    (root / "bomb.docx").write_bytes(bomb.getvalue())
    graph = await extracted(await opened(root))
    assert {item.where for item in graph.rejected} == {"broken.docx", "broken.pdf", "bomb.docx"}
    assert graph.of("File").keys() == {"broken.docx", "broken.pdf", "bomb.docx"}
    assert not graph.documents


async def test_large_files_are_nodes_and_never_opened(root):
    with (root / "huge.log").open("wb") as file:
        file.truncate(100 * 1024 * 1024 * 1024)
    graph = await extracted(await opened(root))
    assert graph.of("File")["huge.log"]["size"] == 100 * 1024 * 1024 * 1024
    assert not graph.documents
    assert (await extracted(await opened(root), graph)).rows == 0


async def test_links_sockets_and_pipes_are_passed_by(root, tmp_path):
    (tmp_path / "secret.txt").write_text("outside\n")
    (root / "in.txt").write_text("inside\n")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "again.txt").symlink_to(root / "in.txt")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)
        try:
            server.bind("socket.txt")
        finally:
            os.chdir(here)
    graph = await extracted(await opened(root))
    assert graph.of("File").keys() == {"in.txt"}
    assert graph.of("Folder").keys() == {"."}


async def test_a_file_that_cannot_be_read_is_rejected_once_per_sync_and_then_read(root):
    (root / "a.txt").write_text("one\n")
    (root / "shut.txt").write_text("two\n")
    session = await opened(root)
    with refused(root / "shut.txt"):
        graph = await extracted(session)
        assert [item.where for item in graph.rejected] == ["shut.txt"]
        assert ("File", "shut.txt") in graph.nodes
        again = await extracted(session, graph)
        assert (again.rows, len(again.rejected)) == (0, 1)
    healed = await extracted(session, again)
    assert healed.documents["File", "shut.txt"] == "two\n"
    assert not healed.rejected


@contextmanager
def refused(path: Path):
    """Let nobody open a file, root neither: a lease makes a non-blocking open fail."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    signal.signal(signal.SIGIO, before)


async def test_names_that_are_not_utf8_keep_their_bytes(root):
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.txt")).write_text("latin name\n")
    graph = await extracted(await opened(root))
    node = graph.of("File")["hex:" + b"caf\xe9.txt".hex()]
    assert node["path"] == "caf\ufffd.txt"
    assert node["path_hex"] == b"caf\xe9.txt".hex()


async def test_globs_choose_files_and_leave_out_empty_branches(root):
    for path in ("docs/a.md", "docs/b.txt", "src/c.md", "build/d.md", ".git/e.md", "x/y/z.txt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("text\n")
    session = await opened(root, include_globs=["*.md"], exclude_globs=[".git", "build/**"])
    graph = await extracted(session)
    assert graph.of("File").keys() == {"docs/a.md", "src/c.md"}
    assert graph.of("Folder").keys() == {".", "docs", "src"}


async def test_a_touched_file_of_the_same_content_yields_nothing(root):
    (root / "a.txt").write_text("one\n")
    os.utime(root / "a.txt", (1_600_000_000, 1_600_000_000))
    session = await opened(root)
    graph = await extracted(session)
    os.utime(root / "a.txt", (1_600_000_999, 1_600_000_999))
    assert (await extracted(session, graph)).rows == 0


async def test_a_lost_manifest_and_a_changed_config_mean_a_full_extract(root, tmp_path):
    (root / "a.txt").write_text("one\n")
    graph = await extracted(await opened(root))
    shutil.rmtree(tmp_path / "work/manifests")
    graph = await extracted(await opened(root), graph)
    assert graph.mode == Mode(True, "the manifest of the last extract is not on this machine")
    graph = await extracted(await opened(root, max_bytes=2), graph)
    assert graph.mode == Mode(True, "the config changed")


async def test_an_older_cursor_still_has_its_manifest(root):
    (root / "a.txt").write_text("one\n")
    session = await opened(root)
    graph = await extracted(session)
    older = dict(graph.cursors)
    (root / "b.txt").write_text("two\n")
    await extracted(session, graph)
    items = [item async for item in session.extract(older, full=False)]
    assert items[0] == Mode(False)


async def test_a_missing_root_and_one_outside_of_the_roots_are_config_faults(root, tmp_path):
    session = await opened(root / "gone")
    with pytest.raises(SourceConfigError, match="cannot be listed") as caught:
        await session.check()
    assert caught.value.details["kind"] == "config"
    with pytest.raises(SourceConfigError, match="SOURCE_FILE_ROOTS"):
        await open_session(FilesConnector(), {"root": "/etc"}, tmp_path / "work", root)
    with pytest.raises(SourceConfigError, match="either root or object_prefix"):
        await open_session(FilesConnector(), {}, tmp_path / "work", root)


async def test_objects_below_a_prefix_are_read_like_a_folder(tmp_path):
    store = open_objects(Settings.load({}, agentcy_state_dir=tmp_path / "state"))
    org = new_id()
    for key, data in (("docs/a.md", b"# A\n"), ("docs/in/b.txt", b"b\n"), ("other/c.txt", b"c\n")):
        await store.put_new(f"files/{org.hex}/{key}", data)
    session = await open_session(
        FilesConnector(),
        {"object_prefix": "docs"},
        tmp_path / "work",
        objects=OrgObjects(store, org),
    )
    await session.check()
    graph = await extracted(session)
    graph.check()
    assert graph.of("File").keys() == {"a.md", "in/b.txt"}
    assert (await session.call("read_file", {"path": "in/b.txt"}))["text"] == "b\n"
    await store.put_new(f"files/{org.hex}/docs/new.txt", b"n\n")
    await store.delete(f"files/{org.hex}/docs/a.md")
    graph = await extracted(session, graph)
    assert graph.of("File").keys() == {"in/b.txt", "new.txt"}
    assert not graph.mode.full


NAMES = ("a.md", "b.py", "d/a.txt", "d/e/f.md", "d", "d.x/g.md", "z")
step = st.tuples(
    st.sampled_from(("write", "write", "binary", "large", "remove")), st.sampled_from(NAMES),
    st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(step, min_size=1, max_size=5), min_size=1, max_size=5))
def test_random_changes_give_the_same_graph_in_steps_and_at_once(changes):
    asyncio.run(_compare(changes))


async def _compare(changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        session = await opened(root, max_bytes=500)
        graph: Graph | None = None
        for steps in changes:
            for action, name, number in steps:
                change(root / name, action, number)
            graph = await extracted(session, graph)
            whole = await extracted(session)
            graph.check()
            assert graph == whole


def change(path: Path, action: str, number: int) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif action == "remove" and path.is_file():
        path.unlink()
    if action == "remove":
        return
    for parent in reversed(path.parents):
        if parent.is_file():
            parent.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {"write": b"text %d\n" % number, "binary": b"\x00%d" % number}
    path.write_bytes(sizes.get(action, b"x" * (600 + number)))
