"""Reading tools: log, show, file, grep, diff."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pygit2

from agentcy_ray.connectors.git.config import GitConfig
from agentcy_ray.connectors.git.faults import reading
from agentcy_ray.connectors.git.files import (
    blob_size,
    blob_text,
    tree_entry,
)
from agentcy_ray.connectors.git.history import History
from agentcy_ray.connectors.git.names import message_fields, utc_time
from agentcy_ray.connectors.git.patches import below, compared
from agentcy_ray.connectors.git.snapshot import resolve, take_snapshot
from agentcy_ray.connectors.git.tool_specs import FILE_BYTES_MAX
from agentcy_ray.connectors.git.trees import SUBMODULE
from agentcy_ray.connectors.grep import LinePattern
from agentcy_ray.connectors.paths import PathFilter, decoded, raw_of
from agentcy_ray.core.errors import NotFoundError, ToolArgumentsError

LOG_SCAN = 50_000
"""Commits that one ``log`` looks at; it says so when it stops there."""

GREP_SCAN_BYTES = 256 * 1024 * 1024


class ReadTools:
    """The reading tools over a source and, for branches that are not pushed yet, our clone."""

    NAMES = frozenset({"log", "show", "file", "grep", "diff"})

    def __init__(
        self, source: pygit2.Repository, clone: pygit2.Repository | None, config: GitConfig
    ) -> None:
        self._source = source
        self._clone = clone
        self._config = config
        self._wanted = PathFilter(config.include_path_globs)

    def call(self, tool: str, args: Mapping[str, Any]) -> Any:
        """Execute one tool.

        Raises:
            ToolArgumentsError: an argument makes no sense.
            NotFoundError: no such ref or path.
            ConnectorError: the repository is damaged.
        """
        with reading("the repository"):
            return getattr(self, f"_{tool}")(args)

    def _log(self, args: Mapping[str, Any]) -> dict[str, Any]:
        repo, start = self._commit(args.get("ref"))
        since, until = _moment(args, "since"), _moment(args, "until")
        author = str(args.get("author", "")).lower()
        keep = self._keeper(args) if "path" in args else None
        found: list[dict[str, Any]] = []
        scanned, truncated = 0, False
        history = History(repo)
        for commit in history.walk([str(start.id)]):
            if len(found) >= args.get("limit", 20) or scanned >= LOG_SCAN:
                truncated = True
                break
            scanned += 1
            if not _in_span(commit, since, until):
                continue
            who = f"{decoded(commit.author.raw_name)} <{decoded(commit.author.raw_email)}>"
            if author and author not in who.lower():
                continue
            if keep and not any(map(keep, _touched(history, commit))):
                continue
            found.append(_summary(commit, who))
        return {"commits": found, "scanned": scanned, "truncated": truncated}

    def _show(self, args: Mapping[str, Any]) -> dict[str, Any]:
        repo, commit = self._commit(args["ref"])
        parents = History(repo).parents(commit)
        who = f"{decoded(commit.author.raw_name)} <{decoded(commit.author.raw_email)}>"
        summary = _summary(commit, who) | {"parents": [str(parent.id) for parent in parents]}
        return summary | compared(repo, parents[0] if parents else None, commit, self._keeper(args))

    def _diff(self, args: Mapping[str, Any]) -> dict[str, Any]:
        repo, new = self._commit(args.get("to"))
        _, old = self._commit(args["from"])
        if old.id not in repo and self._clone is not None:
            repo = self._clone
        names = {"from": str(old.id), "to": str(new.id)}
        return names | compared(repo, old, new, self._keeper(args))

    def _keeper(self, args: Mapping[str, Any]) -> Callable[[bytes], bool]:
        folder = _folder(args)
        return lambda path: below(path, folder) and self._wanted(path)

    def _file(self, args: Mapping[str, Any]) -> dict[str, Any]:
        repo, commit = self._commit(args.get("ref"))
        path = checked_path(args["path"])
        raw = raw_of(path)
        entry = tree_entry(commit.tree, raw) if self._wanted(raw) else None
        if entry is None:
            raise NotFoundError(
                f"{path!r} is no file at {commit.short_id}; search with grep or list with log"
            )
        mode = int(entry.filemode or 0)
        answer: dict[str, Any] = {"path": path, "commit": str(commit.id)}
        size = blob_size(repo, entry.id) if mode != SUBMODULE else None
        text = blob_text(repo, entry.id, mode) if size is not None else None
        if text is None:
            note = "no text: a submodule, a symlink, a binary or a file of more than 1 MiB"
            return answer | {"size": size, "text": None, "note": note}
        lines = text.splitlines(keepends=True)
        first = args.get("start_line", 1)
        chosen = "".join(lines[first - 1 : first - 1 + args.get("lines", 2000)])
        cut = chosen.encode()[:FILE_BYTES_MAX].decode("utf-8", "ignore")
        end = first - 1 + len(cut.splitlines())
        return answer | {
            "size": size,
            "text": cut,
            "start_line": first,
            "total_lines": len(lines),
            "truncated": end < len(lines),
        }

    def _grep(self, args: Mapping[str, Any]) -> dict[str, Any]:
        repo, commit = self._commit(args.get("ref"))
        pattern = LinePattern(
            args["pattern"],
            ignore_case=args.get("ignore_case", False),
            literal=args.get("literal", False),
        )
        limit = args.get("limit", 100)
        matches: list[dict[str, Any]] = []
        for path, text in self._texts(repo, commit, args.get("path_glob")):
            for number, line in pattern.lines(text) if text is not None else ():
                if len(matches) == limit:
                    return {"matches": matches, "truncated": True, "commit": str(commit.id)}
                matches.append({"path": path, "line": number, "text": line})
            if text is None:
                return {"matches": matches, "truncated": True, "commit": str(commit.id)}
        return {"matches": matches, "truncated": False, "commit": str(commit.id)}

    def _texts(
        self, repo: pygit2.Repository, commit: pygit2.Commit, path_glob: str | None
    ) -> Iterator[tuple[str, str | None]]:
        """Path and text of each text file; a None text says that the scan ends early."""
        asked = PathFilter([path_glob] if path_glob else [])
        scanned = 0
        for touch in History(repo).changes(None, str(commit.id)):
            path = decoded(touch.path)
            if not (self._wanted(touch.path) and asked(touch.path)):
                continue
            text = blob_text(repo, touch.blob, touch.mode)
            if text is not None:
                scanned += len(text)
                if scanned > GREP_SCAN_BYTES:
                    yield path, None
                    return
                yield path, text

    def _commit(self, ref: str | None) -> tuple[pygit2.Repository, pygit2.Commit]:
        if ref is None:
            sha = take_snapshot(self._source, self._config).head
            if sha is None:
                raise NotFoundError("the repository is empty; commit something to it first")
            return self._source, self._source[sha].peel(pygit2.Commit)
        for repo in (self._source, self._clone):
            if repo is not None and (sha := resolve(repo, ref)):
                return repo, repo[sha].peel(pygit2.Commit)
        raise NotFoundError(f"no branch, tag or commit {ref!r}; call log to see what there is")


def checked_path(path: str) -> str:
    """A path inside a repository.

    Raises:
        ToolArgumentsError: it is absolute, climbs out, or names git's own folder.
    """
    parts = path.split("/")
    bad = any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
    if bad or "\x00" in path or "\\" in path:
        raise ToolArgumentsError(
            f"{path!r} is no path inside the repository; give one like docs/guide.md"
        )
    return path


def _touched(history: History, commit: pygit2.Commit) -> Iterator[bytes]:
    return (touch.path for touch in history.touches(commit, history.parents(commit)))


def _folder(args: Mapping[str, Any]) -> bytes | None:
    path = args.get("path")
    return raw_of(checked_path(path.rstrip("/"))) if path else None


def _moment(args: Mapping[str, Any], name: str) -> datetime | None:
    if name not in args:
        return None
    try:
        moment = datetime.fromisoformat(args[name])
    except ValueError:
        raise ToolArgumentsError(
            f"{name} is {args[name]!r}; give an RFC 3339 time like 2026-01-31T00:00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise ToolArgumentsError(f"{name} has no time zone; add Z or an offset")
    return moment


def _in_span(commit: pygit2.Commit, since: datetime | None, until: datetime | None) -> bool:
    seconds = commit.author.time
    return (since is None or seconds >= since.timestamp()) and (
        until is None or seconds <= until.timestamp()
    )


def _summary(commit: pygit2.Commit, who: str) -> dict[str, Any]:
    fields = message_fields(commit.raw_message, commit.message_encoding)
    return {
        "sha": str(commit.id),
        "author": who,
        "authored_at": utc_time(commit.author.time),
        **fields,
    }
