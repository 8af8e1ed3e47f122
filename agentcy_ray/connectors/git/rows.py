"""Nodes and edges of a repository as rows of bounded batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pygit2

from agentcy_ray.connectors.base import Batch, BatchKind
from agentcy_ray.connectors.git.names import message_fields, utc_time
from agentcy_ray.connectors.git.snapshot import Snapshot
from agentcy_ray.connectors.git.trees import LINK, SUBMODULE, Touch
from agentcy_ray.connectors.paths import decoded, key_of, lossless, raw_of
from agentcy_ray.connectors.records import BatchBuilder, json_object
from agentcy_ray.connectors.text import file_type

REPOSITORY, BRANCH, TAG = "GitRepository", "GitBranch", "GitTag"
COMMIT, FILE, AUTHOR = "GitCommit", "GitFile", "GitAuthor"
LABELS = (REPOSITORY, BRANCH, TAG, COMMIT, FILE, AUTHOR)
EDGE_TYPES = (
    "AUTHORED_BY", "PARENT_OF", "ON_BRANCH", "TAGGED_AS", "CONTAINS_FILE", "TOUCHES",
)  # fmt: skip

_SHORT = 12
_CHANGED = {change: json_object({"change": change}) for change in ("added", "modified", "deleted")}


class Rows:
    """Collects rows; ``drain`` hands out the batches that are full, ``finish`` the rest.

    Args:
        repository_id: external id of the repository node.
        mailmap: maps authors to their real names and addresses, when there is one.
    """

    def __init__(self, repository_id: str, mailmap: pygit2.Mailmap | None) -> None:
        self._repository_id = repository_id
        self._mailmap = mailmap
        self._builders: dict[BatchKind, BatchBuilder] = {}
        self._ready: list[Batch] = []
        self._authors: dict[tuple[bytes, bytes], str] = {}
        self._written_authors: set[str] = set()

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

    # -- nodes

    def repository(self, snapshot: Snapshot) -> None:
        """The repository itself."""
        name = self._repository_id.rstrip("/").rpartition("/")[2].removesuffix(".git")
        properties = {
            "url": snapshot.url,
            "default_branch": snapshot.trunk,
            "head_sha": snapshot.head,
        }
        self._node(REPOSITORY, self._repository_id, name or self._repository_id, properties)

    def branch(self, name: str, sha: str, *, default: bool) -> None:
        """A branch at its tip."""
        raw = raw_of(name)
        properties = {"head_sha": sha, "default": default, **lossless(raw, "name_hex")}
        self._node(BRANCH, name, decoded(raw), properties)

    def tag(self, repo: pygit2.Repository, name: str, target: str, commit: str | None) -> None:
        """A tag; an annotated one carries its message, tagger and time."""
        raw = raw_of(name)
        properties: dict[str, Any] = {"target_sha": commit or target, **lossless(raw, "name_hex")}
        found = repo.get(target)
        properties["annotated"] = isinstance(found, pygit2.Tag)
        if isinstance(found, pygit2.Tag):
            properties |= message_fields(found.raw_message or b"", None)
            tagger = cast("pygit2.Signature | None", found.tagger)
            if tagger is not None:
                properties["tagger"] = decoded(tagger.raw_name)
                properties["tagged_at"] = utc_time(tagger.time)
        self._node(TAG, name, decoded(raw), properties)

    def commit(self, commit: pygit2.Commit) -> None:
        """A commit, its author, and the edges to author and parents."""
        sha = str(commit.id)
        properties = {
            "sha": sha,
            "authored_at": utc_time(commit.author.time),
            "committed_at": utc_time(commit.committer.time),
            "parents": len(commit.parent_ids),
            **message_fields(commit.raw_message, commit.message_encoding),
        }
        self._node(COMMIT, sha, sha[:_SHORT], properties)
        self.edge(COMMIT, sha, "AUTHORED_BY", AUTHOR, self._author(commit.author))

    def file(self, raw: bytes, mode: int, size: int | None, target: str | None = None) -> None:
        """A file at the head: path, size in bytes, and what kind of entry it is."""
        kind = {LINK: "symlink", SUBMODULE: "submodule"}.get(mode, "file")
        self._file(raw, {"at_head": True, "size": size, "kind": kind, "target": target})

    def past_file(self, raw: bytes) -> None:
        """A path of history that is not at the head."""
        self._file(raw, {"at_head": False})

    # -- edges

    def touch(self, sha: str, touch: Touch, lines: tuple[int, int] | None = None) -> None:
        """A commit changed a file; ``lines`` are those that it added and deleted."""
        properties: dict[str, Any] | str
        if touch.old is not None:
            properties = {"change": touch.change, "old_path": decoded(touch.old)}
        elif touch.new is not None:
            properties = {"change": touch.change, "new_path": decoded(touch.new)}
        elif lines is not None:
            properties = {"change": touch.change}
        else:
            properties = _CHANGED[touch.change]
        if lines is not None and isinstance(properties, dict):
            properties |= {"added_lines": lines[0], "deleted_lines": lines[1]}
        self.edge(COMMIT, sha, "TOUCHES", FILE, key_of(touch.path), properties)

    def contains(self, raw: bytes) -> None:
        """The repository has a file at its head."""
        self.edge(REPOSITORY, self._repository_id, "CONTAINS_FILE", FILE, key_of(raw))

    def edge(
        self,
        src_label: str,
        src: str,
        edge_type: str,
        dst_label: str,
        dst: str,
        properties: dict[str, Any] | str = "{}",
    ) -> None:
        """One edge; properties are a mapping, or canonical JSON."""
        self._add(
            "edges",
            src_label=src_label,
            src_external_id=src,
            type=edge_type,
            dst_label=dst_label,
            dst_external_id=dst,
            properties=properties,
        )

    # -- documents, and what is gone

    def document(self, raw: bytes, text: str, media_type: str) -> None:
        """The text of a file at the head."""
        self._add(
            "documents", label=FILE, external_id=key_of(raw), text=text, media_type=media_type
        )

    def gone(self, label: str, external_id: str) -> None:
        """A node is gone, with its edges and its document."""
        self._add("tombstones", label=label, external_id=external_id)

    def not_contained(self, raw: bytes) -> None:
        """A file left the head and stays as a path of history."""
        self.edge_gone(REPOSITORY, self._repository_id, "CONTAINS_FILE", FILE, key_of(raw))

    def no_document(self, raw: bytes) -> None:
        """A file has no text any more."""
        self._add("document_tombstones", label=FILE, external_id=key_of(raw))

    def edge_gone(self, src_label: str, src: str, edge_type: str, dst_label: str, dst: str) -> None:
        """An edge is gone while both of its ends stay."""
        self._add(
            "edge_tombstones",
            src_label=src_label,
            src_external_id=src,
            type=edge_type,
            dst_label=dst_label,
            dst_external_id=dst,
        )

    # -- inside

    def author_key(self, author: pygit2.Signature) -> tuple[str, str, str]:
        """(external id, name, address) of an author.

        Identity is git's own: name and address after the mailmap, the address without case.
        """
        name, email = decoded(author.raw_name), decoded(author.raw_email)
        if self._mailmap is not None:
            name, email = self._mailmap.resolve(name, email)
        email = email.strip().lower()
        return f"{name} <{email}>", name or email or "unknown", email

    def _author(self, author: pygit2.Signature) -> str:
        raw = (author.raw_name, author.raw_email)
        known = self._authors.get(raw)
        if known is None:
            known, name, email = self.author_key(author)
            self._authors[raw] = known
            if known not in self._written_authors:
                self._written_authors.add(known)
                self._node(AUTHOR, known, name, {"email": email})
        return known

    def _file(self, raw: bytes, properties: dict[str, Any]) -> None:
        path = decoded(raw)
        properties |= {"path": path, "language": file_type(path).language}
        properties |= lossless(raw, "path_hex")
        self._node(FILE, key_of(raw), path, properties)

    def _node(self, label: str, external_id: str, name: str, properties: dict[str, Any]) -> None:
        present = {key: value for key, value in properties.items() if value is not None}
        self._add("nodes", labels=(label,), external_id=external_id, name=name, properties=present)

    def _add(self, kind: BatchKind, **row: Any) -> None:
        builder = self._builders.get(kind)
        if builder is None:
            builder = self._builders[kind] = BatchBuilder(kind)
        if batch := builder.add(**row):
            self._ready.append(batch)
