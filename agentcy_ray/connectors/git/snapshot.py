"""The refs of a repository at one moment: what an extract reads, and the cursor it leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
import pygit2

from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.git.config import GitConfig, names_folder
from agentcy_ray.connectors.git.faults import reading
from agentcy_ray.connectors.paths import decoded, key_of, raw_of

VERSION = 1
"""Part of the cursor: another version of the extract reads in full once."""

_TRUNKS = ("main", "master", "trunk", "develop", "default")
_BRANCH, _TAG = b"refs/heads/", b"refs/tags/"


@dataclass(frozen=True)
class Snapshot:
    """Tips of all branches and tags, and what is read at the head. Hashes are hexadecimal."""

    branches: dict[str, str]
    """Branch → its commit. Names are keys of ``names.key_of``."""
    tags: dict[str, tuple[str, str | None]]
    """Tag → (the object it names, the commit behind that; None when it is no commit)."""
    head: str | None
    """The commit whose files are read; None in an empty repository."""
    trunk: str | None
    """The branch whose whole history belongs to it; None without branches."""
    url: str
    """Where the repository comes from, for people and link rules."""
    mailmap: str | None
    """Blob of ``.mailmap`` at the head: it rewrites every author."""
    shallow: str | None
    """Digest of the shallow boundary."""
    settings: str
    """Digest of the config fields that shape what is yielded."""
    version: int = VERSION

    @property
    def tips(self) -> list[str]:
        """Every commit from which history is walked, each once, in a fixed order."""
        tagged = (commit for _, commit in self.tags.values() if commit)
        head = (self.head,) if self.head else ()
        return sorted({*self.branches.values(), *tagged, *head})

    def cursor(self) -> dict[str, Any]:
        """The snapshot as a JSON object."""
        return asdict(self) | {"tags": {name: list(pair) for name, pair in self.tags.items()}}

    @classmethod
    def from_cursor(cls, cursor: Mapping[str, Any]) -> Snapshot | None:
        """The snapshot behind a cursor; None when another version wrote it."""
        if cursor.get("version") != VERSION:
            return None
        fields = dict(cursor)
        fields["tags"] = {name: (pair[0], pair[1]) for name, pair in cursor["tags"].items()}
        return cls(**fields)


def take_snapshot(repo: pygit2.Repository, config: GitConfig) -> Snapshot:
    """Read all refs once.

    Raises:
        SourceConfigError: kind ``config``; ``config.ref`` names nothing in the repository.
        ConnectorError: the repository is damaged.
    """
    with reading("the repository"):
        return _snapshot(repo, config)


def _snapshot(repo: pygit2.Repository, config: GitConfig) -> Snapshot:
    branches: dict[str, str] = {}
    tags: dict[str, tuple[str, str | None]] = {}
    for raw in sorted(repo.raw_listall_references()):
        if raw.startswith(_BRANCH):
            if commit := _peeled(repo, raw):
                branches[key_of(raw[len(_BRANCH) :])] = str(commit.id)
        elif raw.startswith(_TAG):
            target = repo.lookup_reference(os.fsdecode(raw)).resolve().target
            commit = _peeled(repo, raw)
            tags[key_of(raw[len(_TAG) :])] = (str(target), str(commit.id) if commit else None)
    head = _head(repo, config, branches, tags)
    return Snapshot(
        branches=branches,
        tags=tags,
        head=str(head.id) if head else None,
        trunk=_trunk(repo, config, branches),
        url=public_url(repo, config),
        mailmap=_mailmap_id(head),
        shallow=_shallow(repo),
        settings=_digest(orjson.dumps(_settings(config))),
    )


def public_url(repo: pygit2.Repository, config: GitConfig) -> str:
    """The configured URL; for a folder the URL of its ``origin`` when it has one."""
    if not names_folder(config.url):
        return config.url.strip()
    if "origin" in set(repo.remotes.names()):
        return _without_userinfo(repo.remotes["origin"].url or "")
    return f"file://{Path(repo.workdir or repo.path)}"


def _without_userinfo(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _peeled(repo: pygit2.Repository, raw: bytes) -> pygit2.Commit | None:
    try:
        return repo.lookup_reference(os.fsdecode(raw)).peel(pygit2.Commit)
    except (pygit2.GitError, KeyError, ValueError):
        return None  # a tag of a tree or blob, or a ref to nothing


def _head(
    repo: pygit2.Repository,
    config: GitConfig,
    branches: Mapping[str, str],
    tags: Mapping[str, tuple[str, str | None]],
) -> pygit2.Commit | None:
    if config.ref is None:
        if not repo.head_is_unborn:
            return repo.head.peel(pygit2.Commit)
        trunk = _trunk(repo, config, branches)
        found = branches[trunk] if trunk else None
    else:
        found = resolve(repo, config.ref)
        if found is None:
            near = get_close_matches(config.ref, [*branches, *tags], n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "list its branches with git"
            raise fault("config", f"the repository has no ref {config.ref!r}; {hint}", loc="ref")
    return repo[found].peel(pygit2.Commit) if found else None


def resolve(repo: pygit2.Repository, ref: str) -> str | None:
    """The commit that a branch, tag, hash or revision expression names, or None."""
    for prefix in (_BRANCH, _TAG):
        if commit := _peeled(repo, prefix + raw_of(ref)):
            return str(commit.id)
    try:
        return str(repo.revparse_single(ref).peel(pygit2.Commit).id)
    except (pygit2.GitError, KeyError, ValueError):
        return None


def _trunk(repo: pygit2.Repository, config: GitConfig, branches: Mapping[str, str]) -> str | None:
    wanted = [config.ref] if config.ref else []
    if (target := head_branch(repo)) is not None:
        wanted.append(key_of(target.removeprefix(_BRANCH)))
    found = (name for name in (*wanted, *_TRUNKS, *sorted(branches)) if name in branches)
    return next(found, None)


def head_branch(repo: pygit2.Repository) -> bytes | None:
    """The ref that HEAD names, also when it has no commit yet; None when HEAD is detached."""
    target = repo.lookup_reference("HEAD").raw_target
    return target if isinstance(target, bytes) else None


def _mailmap_id(head: pygit2.Commit | None) -> str | None:
    if head is None or ".mailmap" not in head.tree:
        return None
    entry = head.tree[".mailmap"]
    return str(entry.id) if isinstance(entry, pygit2.Blob) else None


def read_mailmap(repo: pygit2.Repository, snapshot: Snapshot) -> pygit2.Mailmap | None:
    """The mailmap that a snapshot names."""
    blob = repo.get(snapshot.mailmap) if snapshot.mailmap else None
    return pygit2.Mailmap.from_buffer(decoded(blob.data)) if isinstance(blob, pygit2.Blob) else None


def _shallow(repo: pygit2.Repository) -> str | None:
    boundary = Path(repo.path) / "shallow"
    if not repo.is_shallow or not boundary.exists():
        return None
    return _digest(b"\n".join(sorted(boundary.read_bytes().split())))


def _settings(config: GitConfig) -> list[object]:
    """What a change of must be followed by a full extract."""
    extra = [{"line_counts": True}] if config.line_counts else []
    return [config.ref, config.shallow, *config.include_path_globs, *extra]


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
