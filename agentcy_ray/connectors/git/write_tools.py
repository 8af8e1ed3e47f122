"""Writing tools: branch, commit, push.

They act on a bare clone of the platform's own that borrows the objects of the source (git's
alternates), so that it costs nothing to make and the source's working copy is never written.

A call's idempotency key is kept as a ref of the clone, ``refs/idempotency/<tool>/<digest>``, that
names the result; it is written before the effect, so a repeated call finds the former result and
completes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pygit2
from pygit2 import enums

from agentcy_ray.connectors.git.config import GitConfig, Local, Remote
from agentcy_ray.connectors.git.faults import LIBRARY_ERRORS, reading
from agentcy_ray.connectors.git.gate import Gate
from agentcy_ray.connectors.git.mirror import Callbacks, locked, objects_folder, talking
from agentcy_ray.connectors.git.objects import copy_objects
from agentcy_ray.connectors.git.read_tools import checked_path
from agentcy_ray.connectors.git.snapshot import head_branch, resolve, take_snapshot
from agentcy_ray.core.errors import ConnectorError, NotFoundError, ToolArgumentsError
from agentcy_ray.stores.egress import Guard

PUSH_SECS = 300.0
"""How long a push may take; a tool call waits for it."""
_BEHIND = ("fast", "not present locally")
"""Signs of a push that would lose commits, in libgit2's messages."""
_AUTHOR = ("Agentcy", "agentcy@localhost")


class WriteTools:
    """The writing tools over a source and the platform's clone of it.

    Args:
        source: the repository in place, or the mirror of a URL.
        config: the source's config.
        place: where pushes go.
        work_dir: the source's work folder, which holds the clone.
        guard: says where pushes may go.
    """

    NAMES = frozenset({"branch", "commit", "push"})

    def __init__(
        self,
        source: pygit2.Repository,
        config: GitConfig,
        place: Local | Remote,
        work_dir: Path,
        guard: Guard,
    ) -> None:
        self._source = source
        self._config = config
        self._place = place
        self._guard = guard
        self._folder = work_dir / "clone.git"
        self._lock = work_dir / "clone.lock"

    def existing(self) -> pygit2.Repository | None:
        """The clone, when a writing tool was used before."""
        return pygit2.Repository(self._folder) if (self._folder / "HEAD").exists() else None

    def call(self, tool: str, args: Mapping[str, Any], key: str | None) -> Any:
        """Execute one tool; one at a time on this machine.

        Raises:
            ToolArgumentsError: a name or a path is not possible.
            NotFoundError: no such ref.
            ConnectorError: the effect is refused, or the repository failed.
        """
        with locked(self._lock), reading("the repository or its clone"):
            clone = self._clone()
            record = _key_ref(tool, key) if key else None
            return getattr(self, f"_{tool}")(clone, args, record)

    # -- tools

    def _branch(
        self, clone: pygit2.Repository, args: Mapping[str, Any], record: str | None
    ) -> dict[str, Any]:
        name = _branch_ref(args["name"])
        sha = _recorded(clone, record) or self._start(clone, args.get("from"))
        present = _target(clone, name)
        if present is None:
            if resolve(self._source, name) not in (None, sha):
                raise ConnectorError(
                    f"the source has a branch {args['name']!r} at another commit; choose another"
                    " name, or commit to that branch"
                )
            _record(clone, record, sha)
            clone.references.create(name, pygit2.Oid(hex=sha))
        elif present != sha and _recorded(clone, record) is None:
            raise ConnectorError(
                f"the branch {args['name']!r} exists at another commit; choose another name"
            )
        return {"branch": args["name"], "commit": sha}

    def _commit(
        self, clone: pygit2.Repository, args: Mapping[str, Any], record: str | None
    ) -> dict[str, Any]:
        name = _branch_ref(args["branch"])
        done = _recorded(clone, record)
        if done is None:
            done = self._new_commit(clone, name, args)
            _record(clone, record, done)
        commit = clone[done].peel(pygit2.Commit)
        parents = [str(parent) for parent in commit.parent_ids]
        if _target(clone, name) in (*parents, None):
            clone.references.create(name, commit.id, force=True)
        paths = [item["path"] for item in args["files"]]
        return {"branch": args["branch"], "commit": done, "parents": parents, "files": paths}

    def _push(
        self, clone: pygit2.Repository, args: Mapping[str, Any], record: str | None
    ) -> dict[str, Any]:
        name, there = _branch_ref(args["branch"]), _branch_ref(args.get("to", args["branch"]))
        sha = _recorded(clone, record) or _target(clone, name)
        if sha is None:
            raise NotFoundError(
                f"the clone has no branch {args['branch']!r}; make it with branch and commit"
            )
        _record(clone, record, sha)
        if isinstance(self._place, Local):
            self._push_local(clone, sha, there)
        else:
            self._push_remote(clone, self._place, sha, there)
        return {"branch": there.removeprefix("refs/heads/"), "commit": sha, "to": self._config.url}

    # -- inside

    def _clone(self) -> pygit2.Repository:
        clone = self.existing()
        if clone is None:
            clone = pygit2.init_repository(self._folder, bare=True)
        borrowed = self._folder / "objects" / "info" / "alternates"
        wanted = f"{objects_folder(self._source)}\n"
        if not borrowed.exists() or borrowed.read_text() != wanted:
            borrowed.write_text(wanted)
            clone = pygit2.Repository(self._folder)
        return clone

    def _start(self, clone: pygit2.Repository, ref: str | None) -> str:
        if ref is None:
            sha = take_snapshot(self._source, self._config).head
        else:
            sha = resolve(self._source, ref) or resolve(clone, ref)
        if sha is None:
            raise NotFoundError(f"no branch, tag or commit {ref!r} to start from")
        return sha

    def _new_commit(self, clone: pygit2.Repository, name: str, args: Mapping[str, Any]) -> str:
        tip = _target(clone, name) or resolve(self._source, name)
        if tip is None:
            raise NotFoundError(f"no branch {args['branch']!r}; make it with the branch tool first")
        parent = clone[tip].peel(pygit2.Commit)
        index = pygit2.Index()
        index.read_tree(parent.tree)
        for item in args["files"]:
            _stage(clone, index, item)
        tree = index.write_tree(clone)
        if tree == parent.tree_id:
            raise ConnectorError("these files have just these contents there; nothing to commit")
        now = int(datetime.now(UTC).timestamp())
        author = pygit2.Signature(
            args.get("author_name", _AUTHOR[0]), args.get("author_email", _AUTHOR[1]), now, 0
        )
        committer = pygit2.Signature(*_AUTHOR, now, 0)
        message = args["message"].rstrip("\n") + "\n"
        return str(clone.create_commit(None, author, committer, message, tree, [parent.id]))

    def _push_local(self, clone: pygit2.Repository, sha: str, there: str) -> None:
        # libgit2 does not push to a working copy's repository: the objects are written there and
        # the branch is made, which is what a push does. No hook of the source runs.
        source = self._source
        present = _target(source, there)
        if present == sha:
            return
        short = there.removeprefix("refs/heads/")
        checked_out = not source.is_bare and head_branch(source) == there.encode()
        branch = source.branches.local.get(short)
        if checked_out or (branch is not None and branch.is_checked_out()):
            raise ConnectorError(
                f"somebody has the branch {short!r} checked out in the source, and pushing would"
                " change it under them; push to another branch"
            )
        if present is not None and not clone.descendant_of(sha, present):
            raise ConnectorError(_not_forward(short))
        copy_objects(clone, source, pygit2.Oid(hex=sha))
        source.references.create(there, pygit2.Oid(hex=sha), force=present is not None)

    def _push_remote(self, clone: pygit2.Repository, place: Remote, sha: str, there: str) -> None:
        callbacks = Callbacks(self._config)
        outgoing = "refs/outgoing"
        clone.references.create(outgoing, pygit2.Oid(hex=sha), force=True)
        with Gate(self._guard, place.url, PUSH_SECS) as way, talking(place.url):
            remote = clone.remotes.create_anonymous(way)
            try:
                remote.push([f"{outgoing}:{there}"], callbacks=callbacks)
            except pygit2.GitError as error:
                if any(sign in str(error).lower() for sign in _BEHIND):
                    raise ConnectorError(_not_forward(there)) from error
                raise
        if callbacks.refused is not None:
            raise ConnectorError(f"the server refused the push to {there}: {callbacks.refused}")


def _not_forward(branch: str) -> str:
    return (
        f"the branch {branch!r} has commits there that this one lacks; a push is never forced:"
        " make a new branch from it and commit again"
    )


def _stage(repo: pygit2.Repository, index: pygit2.Index, item: Mapping[str, Any]) -> None:
    path = checked_path(item["path"])
    try:
        before: int | None = int(index[path].mode)
    except KeyError:
        before = None
    if item.get("delete"):
        if before is None:
            raise ToolArgumentsError(f"{path!r} cannot be deleted: there is no such file")
        index.remove(path)
        return
    if "content" not in item:
        raise ToolArgumentsError(f"{path!r} has neither content nor delete; give one of them")
    executable = before == enums.FileMode.BLOB_EXECUTABLE
    mode = enums.FileMode.BLOB_EXECUTABLE if executable else enums.FileMode.BLOB
    blob = repo.create_blob(str(item["content"]).encode("utf-8", "replace"))
    try:
        index.add(pygit2.IndexEntry(path, blob, mode))
    except LIBRARY_ERRORS as error:
        raise ToolArgumentsError(f"{path!r} cannot be a file here ({error})") from error


def _branch_ref(name: str) -> str:
    ref = f"refs/heads/{name}"
    if name.startswith("-") or not pygit2.reference_is_valid_name(ref):
        raise ToolArgumentsError(
            f"{name!r} is no branch name; use letters, digits, dots, dashes and slashes"
        )
    return ref


def _target(repo: pygit2.Repository, ref: str) -> str | None:
    found = repo.references.get(ref)
    return str(found.peel(pygit2.Commit).id) if found is not None else None


def _key_ref(tool: str, key: str) -> str:
    return f"refs/idempotency/{tool}/{blake2b(key.encode(), digest_size=16).hexdigest()}"


def _recorded(clone: pygit2.Repository, record: str | None) -> str | None:
    return _target(clone, record) if record else None


def _record(clone: pygit2.Repository, record: str | None, sha: str) -> None:
    if record and clone.references.get(record) is None:
        clone.references.create(record, pygit2.Oid(hex=sha))
