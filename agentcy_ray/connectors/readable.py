"""The text that people read in a file: as it is, or converted to Markdown.

HTML, PDF and Office files are converted by markitdown's converters, called one by one: its front
door would load a model to guess what the name says already. They are converted in a process of
their own, see ``conversion.py``.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

from agentcy_ray.connectors.conversion import Conversion
from agentcy_ray.connectors.text import decode_text, file_type
from agentcy_ray.stores.killable import KillableError

UNPACKED_BYTES = 64 * 1024 * 1024
"""An Office file that unpacks to more is refused: a few bytes can hold gigabytes."""
UNPACKED_ENTRIES = 10_000
HTML_BYTES = 8 * 1024 * 1024
TEXT_CHARS = 4 * 1024 * 1024
"""Longer text is cut."""
_TITLE_CHARS = 200

_CONVERTERS = {
    "HTML": "HtmlConverter",
    "PDF": "PdfConverter",
    "Word": "DocxConverter",
    "PowerPoint": "PptxConverter",
    "Excel": "XlsxConverter",
}
_ZIPPED = frozenset({"Word", "PowerPoint", "Excel"})


class UnreadableError(Exception):
    """A file does not hold what its name promises; the message says why."""


@dataclass(frozen=True)
class Readable:
    """Text for people. ``title`` is what the file calls itself, when it does."""

    text: str
    media_type: str
    title: str | None = None


def readable(path: str, data: bytes, conversion: Conversion) -> Readable | None:
    """The text of a file, or None when it is binary or blank.

    Args:
        path: its name decides how it is read.
        data: the whole file.
        conversion: what HTML, PDF and Office files are converted by.

    Raises:
        UnreadableError: a converter cannot read it.
    """
    kind = file_type(path)
    converter = _CONVERTERS.get(kind.language or "")
    if converter is None:
        text = decode_text(data)
        if text is None:
            return None
        title = _heading(text) if kind.language == "Markdown" else None
        return Readable(text[:TEXT_CHARS], kind.media_type, title)
    if kind.language == "HTML":
        if len(data) > HTML_BYTES:
            raise UnreadableError(f"a page of more than {HTML_BYTES >> 20} MiB is not converted")
        source = decode_text(data)
        if source is None:
            return None
        data = source.encode()
    elif kind.language in _ZIPPED:
        _check_unpacked(data)
    try:
        text, title = conversion.convert(converter, path[path.rfind(".") :].lower(), data)
    except KillableError as error:
        raise UnreadableError(f"its text cannot be extracted: {str(error)[:300]}") from error
    title = title.strip()[:_TITLE_CHARS] if title else None
    if not text.strip():
        return None
    return Readable(text[:TEXT_CHARS], "text/markdown", title or _heading(text))


def _check_unpacked(data: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeError):
        raise UnreadableError("it is no Office file: the archive is damaged") from None
    if len(entries) > UNPACKED_ENTRIES:
        raise UnreadableError(f"it holds {len(entries)} files; at most {UNPACKED_ENTRIES} are read")
    if size > UNPACKED_BYTES:
        raise UnreadableError(f"it unpacks to {size} bytes; at most {UNPACKED_BYTES} are read")


def _heading(text: str) -> str | None:
    for line in text[:4096].splitlines():
        if line.startswith("# ") and line[2:].strip():
            return line[2:].strip()[:_TITLE_CHARS]
    return None
