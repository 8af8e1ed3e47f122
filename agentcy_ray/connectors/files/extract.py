"""Extract of a folder: everything, or what differs from the last manifest."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from agentcy_ray.connectors.base import Checkpoint, ExtractItem, Mode, Progress, Rejected
from agentcy_ray.connectors.conversion import Conversion
from agentcy_ray.connectors.files.config import FilesConfig
from agentcy_ray.connectors.files.manifest import (
    ManifestWriter,
    Seen,
    has_manifest,
    read_manifest,
)
from agentcy_ray.connectors.files.places import Entry, Keep, Place, parts_of
from agentcy_ray.connectors.files.rows import Rows
from agentcy_ray.connectors.paths import decoded
from agentcy_ray.connectors.readable import Readable, UnreadableError, readable
from agentcy_ray.connectors.records import json_object

STREAM = "files"
VERSION = 1
_PROGRESS_EVERY = 500
_RACE_NANOS = 2_000_000_000
"""A file changed this shortly before it was seen may change again within one tick of its clock."""

Items = Generator[ExtractItem, None, None]


class Extraction:
    """One extract of one place.

    Args:
        place: where the files lie.
        config: which of them are read.
        manifests: folder of the manifests.
        cursor: where the last published extract ended; None = read everything.
        conversion: what pages, PDF and Office files are converted by.
    """

    def __init__(
        self,
        place: Place,
        config: FilesConfig,
        manifests: Path,
        cursor: dict[str, Any] | None,
        conversion: Conversion,
    ) -> None:
        self._conversion = conversion
        self._place = place
        self._config = config
        self._manifests = manifests
        self._cursor = cursor
        self._rows = Rows(place.name)

    def run(self) -> Items:
        """All items, first the mode, last the checkpoint."""
        keep = Keep(self._config.include_globs, self._config.exclude_globs)
        settings = _settings(self._config)
        why = self._needs_full(settings)
        yield Mode(full=bool(why), note=why)
        before = iter(()) if why or self._cursor is None else self._before(self._cursor)
        done = 0
        with ManifestWriter(self._manifests) as manifest:
            for entry, seen in merged(self._place.entries(keep), before):
                if entry is None:
                    assert seen is not None
                    self._rows.gone(seen.kind, seen.path)
                elif entry.fault is not None:
                    yield Rejected(decoded(entry.path) or ".", entry.fault)
                else:
                    now, rejected = self._look(entry, seen)
                    manifest.add(now)
                    if rejected:
                        yield rejected
                yield from self._rows.drain()
                done += 1
                if done % _PROGRESS_EVERY == 0:
                    yield Progress(done, None, "files")
            yield from self._rows.finish()
            yield Progress(done, done, "files")
            cursor = {"version": VERSION, "settings": settings, "files": manifest.files}
            yield Checkpoint(STREAM, cursor | {"manifest": manifest.finish()})

    def _needs_full(self, settings: str) -> str:
        cursor = self._cursor
        if not cursor or cursor.get("version") != VERSION:
            return "read from the beginning"
        if cursor["settings"] != settings:
            return "the config changed"
        if not has_manifest(self._manifests, cursor["manifest"]):
            return "the manifest of the last extract is not on this machine"
        return ""

    def _before(self, cursor: dict[str, Any]) -> Iterator[Seen]:
        return read_manifest(self._manifests, cursor["manifest"])

    def _look(self, entry: Entry, seen: Seen | None) -> tuple[Seen, Rejected | None]:
        """Write what is new about an entry; its line for the manifest, and why it was not read."""
        if seen is not None and seen.kind != entry.kind:
            self._rows.gone(seen.kind, seen.path)
            seen = None
        if entry.kind == "folder":
            if seen is None:
                self._rows.folder(entry.path)
            return Seen(entry.path, "folder"), None
        if seen is not None and seen.digest and _same_stat(entry, seen):
            return seen, None
        if entry.size is not None and entry.size > self._config.max_bytes:
            return self._too_large(entry, seen), None
        try:
            data = self._place.read(entry.path, self._config.max_bytes)
        except OSError as error:
            return self._unreadable(entry, seen, error.strerror or str(error))
        if data is None:
            return self._too_large(entry, seen), None
        return self._content(entry, seen, data)

    def _content(
        self, entry: Entry, seen: Seen | None, data: bytes
    ) -> tuple[Seen, Rejected | None]:
        digest = blake2b(data, digest_size=16).hexdigest()
        now = Seen(entry.path, "file", len(data), _steady(entry.mtime_ns), digest)
        if seen is not None and seen.digest == digest:
            return replace(now, text=seen.text), None
        rejected = None
        try:
            text = readable(decoded(entry.path), data, self._conversion)
        except UnreadableError as error:
            text, rejected = None, Rejected(decoded(entry.path), str(error))
        self._write(entry, seen, len(data), text)
        return replace(now, text=text is not None), rejected

    def _too_large(self, entry: Entry, seen: Seen | None) -> Seen:
        now = Seen(entry.path, "file", entry.size, entry.mtime_ns, "large")
        if seen is None or (seen.digest, seen.size) != (now.digest, now.size):
            self._write(entry, seen, entry.size, None)
        return now

    def _unreadable(self, entry: Entry, seen: Seen | None, why: str) -> tuple[Seen, Rejected]:
        now = Seen(entry.path, "file", entry.size, entry.mtime_ns)
        if seen is None or (seen.digest, seen.size) != ("", entry.size):
            self._write(entry, seen, entry.size, None)
        return now, Rejected(decoded(entry.path), why)

    def _write(
        self, entry: Entry, seen: Seen | None, size: int | None, text: Readable | None
    ) -> None:
        self._rows.file(entry, size, text)
        if text is None and seen is not None and seen.text:
            self._rows.no_document(entry.path)


def merged(
    entries: Iterator[Entry], before: Iterator[Seen]
) -> Iterator[tuple[Entry | None, Seen | None]]:
    """Pair what is there with what was seen; both come in walk order, so neither is held."""
    entry, seen = next(entries, None), next(before, None)
    while entry is not None or seen is not None:
        here = entry.order if entry is not None else None
        there = parts_of(seen.path) if seen is not None else None
        take_entry = here is not None and (there is None or here <= there)
        take_seen = there is not None and (here is None or there <= here)
        yield entry if take_entry else None, seen if take_seen else None
        entry = next(entries, None) if take_entry else entry
        seen = next(before, None) if take_seen else seen


def _same_stat(entry: Entry, seen: Seen) -> bool:
    known = entry.mtime_ns is not None and entry.mtime_ns == seen.mtime_ns
    return known and entry.size == seen.size


def _steady(mtime_ns: int | None) -> int | None:
    """The time of change, unless the file may change again without it showing."""
    if mtime_ns is None or time.time_ns() - mtime_ns < _RACE_NANOS:
        return None
    return mtime_ns


def _settings(config: FilesConfig) -> str:
    shown = config.model_dump(exclude={"writable"})
    return blake2b(json_object(shown).encode(), digest_size=16).hexdigest()
