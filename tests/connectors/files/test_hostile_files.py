"""Files that mean harm are a fault of themselves: bounded, typed, and the extract goes on."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from agentcy_ray.connectors.base import Rejected
from agentcy_ray.connectors.conversion import Conversion
from agentcy_ray.connectors.files.places import FolderPlace, Keep
from agentcy_ray.connectors.readable import TEXT_CHARS, UnreadableError, readable
from agentcy_ray.core.errors import AgentcyError
from tests.connectors.files.hostile import FAR, FILES, docx, paragraph, xlsx
from tests.connectors.files.test_files_extract import opened
from tests.connectors.graph import Graph

pytestmark = pytest.mark.attack

SLOW = {"large stream.pdf"} | {name for name in FILES if name.endswith(".html")}
SLOW -= {"instructions.html"}
"""They take seconds, or their limit: the long form of the attacks has them."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "hostile" in metafunc.fixturenames:
        every = metafunc.config.getoption("--attacks") == "long"
        metafunc.parametrize("hostile", [name for name in FILES if every or name not in SLOW])


@pytest.fixture(scope="module")
def conversion():
    made = Conversion(cpu_secs=3)
    yield made
    made.close()


def test_a_hostile_file_ends_as_a_fault_of_its_own(hostile: str, conversion: Conversion) -> None:
    began = time.thread_time()
    text, refused = "", ""
    try:
        found = readable(hostile, FILES[hostile], conversion)
        text = found.text if found else ""
    except UnreadableError as refusal:
        refused = str(refusal)
    assert "Traceback" not in refused
    assert len(refused) < 600
    assert len(text) <= TEXT_CHARS
    assert "root:" not in text
    assert "lollollollol" not in text
    # This thread has only looked at the file.
    assert time.thread_time() - began < 4


def test_after_each_of_them_a_good_file_is_read(conversion: Conversion) -> None:
    with pytest.raises(UnreadableError):
        readable("far.xlsx", xlsx(FAR), conversion)
    found = readable("good.docx", docx(paragraph("Words in a report")), conversion)
    assert found is not None
    assert found.text == "Words in a report"


async def test_an_extract_goes_on_after_them_and_says_what_it_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("far.xlsx", "many.docx", "half.docx", "empty.pdf", "loop.pdf", "nul.md"):
        (root / name).write_bytes(FILES[name])
    (root / "good.docx").write_bytes(docx(paragraph("Words in a report")))
    (root / "a\u202egpj.md").write_text("Named from right to left")
    (root / "line\nbreak.md").write_text("Named over two lines")
    (root / ("n" * 250 + ".md")).write_text("Named at length")
    (root / os.fsdecode(b"\xff\xfe.md")).write_text("Named in no encoding")
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "outside").symlink_to("/etc")
    (root / "round").symlink_to(root)
    os.mkfifo(root / "pipe.md")
    session = await opened(root)
    async with asyncio.timeout(60):
        items = [item async for item in session.extract({}, full=True)]
    await session.close()
    rejected = {item.where for item in items if isinstance(item, Rejected)}
    assert rejected == {"far.xlsx", "many.docx", "half.docx", "empty.pdf"}
    graph = Graph().apply(items)
    texts = [text for _, text in graph.documents.items()]
    assert any("Words in a report" in text for text in texts)
    assert sum("Named" in text for text in texts) == 4
    assert not any("root:" in text for text in texts)
    paths = graph.of("File").keys()
    assert not {"passwd", "pipe.md"} & paths
    assert not any(path.startswith(("outside/", "round/")) for path in paths)


def test_a_folder_that_becomes_a_link_while_it_is_walked_is_not_listed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "a/b", outside / "b"):
        folder.mkdir(parents=True)
    (outside / "canary.md").write_text("x")
    (outside / "b/canary.md").write_text("x")
    found: list[bytes] = []
    for entry in FolderPlace(root).entries(Keep((), ())):
        found.append(entry.path)
        if entry.path == b"a" and entry.fault is None:
            (root / "a").rename(root / "was")
            (root / "a").symlink_to(outside)
    assert found == [b"", b"a", b"a"]  # the second says that it cannot be listed


CLIMBS = (
    "../secret.md",
    "docs/../../secret.md",
    "/etc/passwd",
    "./../secret.md",
    "..\\secret.md",
    "",
    ".",
    "docs//x.md",
    "a\0b.md",
    "out/secret.md",
    "passwd",
    "%2e%2e/secret.md",
    "..%2fsecret.md",
    "\u2025/secret.md",
    "~/.ssh/id_rsa",
    "file:///etc/passwd",
    "pipe.md",
    "docs/",
    "C:\\x",
    "a" * 5000,
)


@pytest.mark.parametrize("tool", ["read_file", "write_file", "list_files"])
async def test_no_path_of_a_tool_leaves_the_root(tmp_path: Path, tool: str) -> None:
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (tmp_path / "secret.md").write_text("canary-7f3a")
    (root / "out").symlink_to(tmp_path)
    (root / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe.md")
    session = await opened(root, writable=True)
    for path in CLIMBS:
        args = {"path": path, "content": "taken"} if tool == "write_file" else {"path": path}
        if tool == "list_files":
            args = {"glob": path or "*"}
        try:
            answer = await session.call(tool, args)
        except AgentcyError:
            continue
        assert "canary-7f3a" not in str(answer), path
        assert "root:" not in str(answer), path
    await session.close()
    assert (tmp_path / "secret.md").read_text() == "canary-7f3a"
    assert {one.name for one in tmp_path.iterdir()} == {"root", "secret.md", "work"}
