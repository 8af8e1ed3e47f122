"""Tools over a place: list, read, search, write."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentcy_ray.connectors.conversion import Conversion
from agentcy_ray.connectors.files.beneath import replace_beneath
from agentcy_ray.connectors.files.config import FilesConfig
from agentcy_ray.connectors.files.places import Entry, Keep, Place
from agentcy_ray.connectors.files.tool_specs import READ_BYTES_MAX
from agentcy_ray.connectors.grep import LinePattern
from agentcy_ray.connectors.paths import PathFilter, decoded, key_of, raw_of
from agentcy_ray.connectors.readable import UnreadableError, readable
from agentcy_ray.connectors.text import decode_text
from agentcy_ray.core.errors import (
    ConnectorError,
    NotFoundError,
    StorageFullError,
    ToolArgumentsError,
)

SEARCH_SCAN_BYTES = 256 * 1024 * 1024
_LINKS = (errno.ELOOP, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Tools:
    """The tools of one source; they see just the files that an extract sees."""

    def __init__(
        self, place: Place, config: FilesConfig, root: Path | None, conversion: Conversion
    ) -> None:
        self._conversion = conversion
        self._place = place
        self._config = config
        self._root = root
        self._keep = Keep(config.include_globs, config.exclude_globs)
        self._tools: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "list_files": self._list,
            "read_file": self._read,
            "search_text": self._search,
        }
        if config.writable and root is not None:
            self._tools["write_file"] = self._write

    @property
    def names(self) -> list[str]:
        """Names of the tools."""
        return sorted(self._tools)

    def call(self, tool: str, args: Mapping[str, Any]) -> Any:
        """Execute one tool.

        Raises:
            ToolArgumentsError: a path leaves the root or is not read by this source.
            NotFoundError: there is no such file.
            ConnectorError: it cannot be read or written.
        """
        return self._tools[tool](args)

    def _list(self, args: Mapping[str, Any]) -> dict[str, Any]:
        folder = self._path(args["path"].rstrip("/")) if args.get("path", ".") != "." else b""
        asked = PathFilter([args["glob"]] if "glob" in args else [])
        found: list[dict[str, Any]] = []
        seen_folder = not folder
        for entry in self._place.entries(self._keep):
            seen_folder = seen_folder or entry.path == folder
            inside = not folder or entry.path.startswith(folder + b"/")
            if not inside or entry.path == b"" or (asked and entry.kind == "folder"):
                continue
            if asked(entry.path):
                if len(found) == args.get("limit", 200):
                    return {"files": found, "truncated": True}
                found.append(_shown(entry))
        if not seen_folder:
            raise NotFoundError(f"there is no folder {args['path']!r}; list without a path first")
        return {"files": found, "truncated": False}

    def _read(self, args: Mapping[str, Any]) -> dict[str, Any]:
        path = self._path(args["path"])
        if not self._keep.whole(path):
            raise NotFoundError(f"{args['path']!r} is not among the files that this source reads")
        data = self._content(path)
        answer: dict[str, Any] = {"path": key_of(path)}
        try:
            found = readable(decoded(path), data, self._conversion) if data is not None else None
        except UnreadableError as error:
            raise ConnectorError(f"{args['path']!r}: {error}; ask for another file") from error
        if found is None:
            note = f"no text: a binary file, or one of more than {self._config.max_bytes} bytes"
            return answer | {"text": None, "note": note}
        lines = found.text.splitlines(keepends=True)
        first = args.get("start_line", 1)
        chosen = "".join(lines[first - 1 : first - 1 + args.get("lines", 2000)])
        cut = chosen.encode()[:READ_BYTES_MAX].decode("utf-8", "ignore")
        end = first - 1 + len(cut.splitlines())
        return answer | {
            "media_type": found.media_type,
            "text": cut,
            "start_line": first,
            "total_lines": len(lines),
            "truncated": end < len(lines) or len(cut) < len(chosen),
        }

    def _search(self, args: Mapping[str, Any]) -> dict[str, Any]:
        pattern = LinePattern(
            args["pattern"],
            ignore_case=args.get("ignore_case", False),
            literal=args.get("literal", False),
        )
        matches: list[dict[str, Any]] = []
        skipped: list[str] = []
        room = SEARCH_SCAN_BYTES
        asked = PathFilter([args["glob"]] if "glob" in args else [])
        for path, text in self._texts(asked, skipped):
            room -= len(text)
            if room < 0:
                return {"matches": matches, "truncated": True, "unreadable": skipped[:20]}
            for number, line in pattern.lines(text):
                if len(matches) == args.get("limit", 100):
                    return {"matches": matches, "truncated": True, "unreadable": skipped[:20]}
                matches.append({"path": path, "line": number, "text": line})
        return {"matches": matches, "truncated": False, "unreadable": skipped[:20]}

    def _texts(self, asked: PathFilter, skipped: list[str]) -> Iterator[tuple[str, str]]:
        for entry in self._place.entries(self._keep):
            if entry.kind == "folder" or not asked(entry.path):
                continue
            if entry.size is not None and entry.size > self._config.max_bytes:
                continue
            try:
                data = self._place.read(entry.path, self._config.max_bytes)
            except OSError:
                skipped.append(key_of(entry.path))
                continue
            text = decode_text(data) if data else None
            if text is not None:
                yield key_of(entry.path), text

    def _write(self, args: Mapping[str, Any]) -> dict[str, Any]:
        path = self._path(args["path"])
        if not self._keep.whole(path):
            raise ToolArgumentsError(
                f"{args['path']!r} is not among the files of this source; write inside of its globs"
            )
        data = str(args["content"]).encode("utf-8", "replace")
        if len(data) > self._config.max_bytes:
            raise ToolArgumentsError(
                f"{len(data)} bytes are more than the {self._config.max_bytes} of this source"
            )
        assert self._root is not None
        try:
            created = replace_beneath(self._root, path, data)
        except OSError as error:
            raise self._fault(error, args["path"]) from error
        return {"path": key_of(path), "size": len(data), "created": created}

    def _content(self, path: bytes) -> bytes | None:
        try:
            return self._place.read(path, self._config.max_bytes)
        except OSError as error:
            raise self._fault(error, decoded(path)) from error

    def _fault(self, error: OSError, path: str) -> Exception:
        if isinstance(error, FileNotFoundError):
            return NotFoundError(f"there is no file {path!r}; list the files first")
        if error.errno in _LINKS:
            return ToolArgumentsError(f"{path!r} goes through a link; name the file itself")
        if error.errno in _FULL:
            return StorageFullError(f"no space is left to write {path!r}; free some first")
        why = error.strerror or str(error)
        return ConnectorError(f"{path!r}: {why}; check the folder's permissions")

    def _path(self, path: str) -> bytes:
        raw = raw_of(path)
        if any(part in (b"", b".", b"..") for part in raw.split(b"/")) or b"\x00" in raw:
            raise ToolArgumentsError(
                f"{path!r} is no path below the root; give one like docs/guide.md"
            )
        return raw


def _shown(entry: Entry) -> dict[str, Any]:
    shown: dict[str, Any] = {"path": key_of(entry.path), "kind": entry.kind}
    if entry.size is not None:
        shown["size"] = entry.size
    if entry.mtime_ns is not None:
        moment = datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC)
        shown["modified_at"] = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    return shown
