import io
from pathlib import Path

import docx

from agentcy_ray.connectors.files import FilesConnector
from agentcy_ray.core.tools import Effect
from tests.conformance.connector_suite import ConnectorCase, Prepared


def prepare(folder: Path) -> Prepared:
    report = docx.Document()
    report.add_heading("Report", 1)
    report.add_paragraph("All systems are well.")
    saved = io.BytesIO()
    report.save(saved)
    (folder / "docs").mkdir()
    (folder / "docs/guide.md").write_text("# Guide\n\nHow to begin.\n")
    (folder / "docs/report.docx").write_bytes(saved.getvalue())
    (folder / "page.html").write_text("<html><title>Page</title><p>Hello</p></html>")
    (folder / "app.py").write_text("print('hello')\n")
    (folder / "logo.png").write_bytes(b"\x89PNG\x00\x00")
    reads = [
        ("list_files", {"path": "docs"}),
        ("read_file", {"path": "docs/report.docx"}),
        ("search_text", {"pattern": "hello", "ignore_case": True}),
    ]
    return Prepared({"root": str(folder)}, file_roots=(folder,), reads=reads)


def prepare_writable(folder: Path) -> Prepared:
    (folder / "note.txt").write_text("One.\n")
    return Prepared({"root": str(folder), "writable": True}, file_roots=(folder,))


READS = dict.fromkeys(("list_files", "read_file", "search_text"), Effect.READ)
CASES = [
    ConnectorCase("files", FilesConnector, prepare, effects=READS),
    ConnectorCase(
        "files-writable",
        FilesConnector,
        prepare_writable,
        effects={**READS, "write_file": Effect.WRITE},
    ),
]
