"""Nodes, edges and documents of a folder as rows of bounded batches."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from agentcy_ray.connectors.base import Batch, BatchKind
from agentcy_ray.connectors.files.places import Entry
from agentcy_ray.connectors.paths import decoded, key_of, lossless
from agentcy_ray.connectors.readable import Readable
from agentcy_ray.connectors.records import BatchBuilder
from agentcy_ray.connectors.text import file_type

FOLDER, FILE, DOCUMENT = "Folder", "File", "Document"
LABELS = (FOLDER, FILE, DOCUMENT)
EDGE_TYPES = ("CONTAINS",)
ROOT = "."
"""External id of the root folder."""


class Rows:
    """Collects rows; ``drain`` hands out the batches that are full, ``finish`` the rest."""

    def __init__(self, root_name: str) -> None:
        self._root_name = root_name
        self._builders: dict[BatchKind, BatchBuilder] = {}
        self._ready: list[Batch] = []

    def drain(self) -> Iterator[Batch]:
        """Full batches since the last call."""
        ready, self._ready = self._ready, []
        yield from ready

    def finish(self) -> Iterator[Batch]:
        """Everything that is left."""
        yield from self.drain()
        for builder in self._builders.values():
            if batch := builder.flush():
                yield batch

    def folder(self, path: bytes) -> None:
        """A folder, and its place in the one above."""
        name = decoded(path.rpartition(b"/")[2]) if path else self._root_name
        properties = {"path": decoded(path) or ROOT, **lossless(path, "path_hex")}
        self._add(
            "nodes",
            labels=(FOLDER,),
            external_id=external_id(path),
            name=name,
            properties=properties,
        )
        if path:
            self._contained(FOLDER, path)

    def file(self, entry: Entry, size: int | None, text: Readable | None) -> None:
        """A file, its place, and its document.

        Prose that was read carries the label ``Document`` too; code does not.
        """
        path = decoded(entry.path)
        kind = file_type(path)
        properties: dict[str, Any] = {
            "path": path,
            "size": size,
            "language": kind.language,
            "media_type": kind.media_type,
            "title": text.title if text else None,
            **lossless(entry.path, "path_hex"),
        }
        self._add(
            "nodes",
            labels=(FILE, DOCUMENT) if text and kind.prose else (FILE,),
            external_id=external_id(entry.path),
            name=path.rpartition("/")[2],
            properties={key: value for key, value in properties.items() if value is not None},
        )
        self._contained(FILE, entry.path)
        if text is not None:
            self._add(
                "documents",
                label=FILE,
                external_id=external_id(entry.path),
                text=text.text,
                media_type=text.media_type,
                modified_at=_moment(entry.mtime_ns),
            )

    def gone(self, kind: str, path: bytes) -> None:
        """A folder or a file is gone."""
        label = FOLDER if kind == "folder" else FILE
        self._add("tombstones", label=label, external_id=external_id(path))

    def no_document(self, path: bytes) -> None:
        """A file has no text any more."""
        self._add("document_tombstones", label=FILE, external_id=external_id(path))

    def _contained(self, label: str, path: bytes) -> None:
        self._add(
            "edges",
            src_label=FOLDER,
            src_external_id=external_id(path.rpartition(b"/")[0]),
            type="CONTAINS",
            dst_label=label,
            dst_external_id=external_id(path),
            properties="{}",
        )

    def _add(self, kind: BatchKind, **row: Any) -> None:
        builder = self._builders.get(kind)
        if builder is None:
            builder = self._builders[kind] = BatchBuilder(kind)
        if batch := builder.add(**row):
            self._ready.append(batch)


def external_id(path: bytes) -> str:
    """External id of a path below the root."""
    return key_of(path) if path else ROOT


def _moment(nanos: int | None) -> datetime | None:
    try:
        return None if nanos is None else datetime.fromtimestamp(nanos / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        return None
