"""Tools of the ``git`` connector: names, arguments and effects."""

from __future__ import annotations

from typing import Any

from agentcy_ray.core.tools import Effect, ToolSpec

LOG_MAX, GREP_MAX, COMMIT_FILES_MAX = 200, 500, 200
FILE_BYTES_MAX = 256 * 1024

_TEXT = {"type": "string", "minLength": 1, "maxLength": 1024}
_REF = {**_TEXT, "description": "branch, tag or commit hash; default: the head that is read"}


def _limit(default: int, most: int, what: str) -> dict[str, Any]:
    return {
        "type": "integer", "minimum": 1, "maximum": most, "default": default, "description": what,
    }  # fmt: skip


def _text(description: str) -> dict[str, Any]:
    return {**_TEXT, "description": description}


def _flag(description: str) -> dict[str, Any]:
    return {"type": "boolean", "default": False, "description": description}


def _spec(
    name: str,
    title: str,
    description: str,
    effect: Effect,
    properties: dict[str, Any],
    required: tuple[str, ...] = (),
) -> ToolSpec:
    return ToolSpec(
        name=name,
        title=title,
        description=description,
        effect=effect,
        # A repeated write finds its key, its branch or an unchanged tree, and does nothing anew.
        idempotent=effect.consequential,
        input_schema={
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        },
    )


TOOLS: tuple[ToolSpec, ...] = (
    _spec(
        "log",
        "Commit history",
        "List commits of the git repository, newest first, optionally only those that touched a"
        " path, are by an author, or lie in a time span.",
        Effect.READ,
        {
            "ref": _REF,
            "path": _text("only commits that changed this file or something in this folder"),
            "author": _text("part of the author's name or address, any case"),
            "since": _text("not older than this RFC 3339 time, for example 2026-01-31T00:00:00Z"),
            "until": _text("not younger than this RFC 3339 time"),
            "limit": _limit(20, LOG_MAX, "commits to list"),
        },
    ),
    _spec(
        "show",
        "One commit",
        "Show one git commit: author, time, message, changed files, and the patch as far as it"
        " fits.",
        Effect.READ,
        {"ref": _text("commit hash, branch or tag"), "path": _text("only this file or folder")},
        ("ref",),
    ),
    _spec(
        "file",
        "Read a file",
        "Read the text of a file in the git repository as it is at a branch, tag or commit.",
        Effect.READ,
        {
            "path": _text("path of the file inside the repository"),
            "ref": _REF,
            "start_line": {
                "type": "integer", "minimum": 1, "default": 1, "description": "first line to read",
            },
            "lines": _limit(2000, 20_000, "lines to read"),
        },
        ("path",),
    ),
    _spec(
        "grep",
        "Search in files",
        "Search the files of the git repository at a branch, tag or commit for lines that match a"
        " regular expression or a plain text.",
        Effect.READ,
        {
            "pattern": _text("RE2 regular expression, or plain text with literal"),
            "ref": _REF,
            "path_glob": _text("only paths that match, for example src/**/*.py"),
            "ignore_case": _flag("match upper and lower case alike"),
            "literal": _flag("take the pattern as plain text"),
            "limit": _limit(100, GREP_MAX, "matching lines to return"),
        },
        ("pattern",),
    ),
    _spec(
        "diff",
        "Compare two versions",
        "Compare two branches, tags or commits of the git repository: changed files, and the patch"
        " as far as it fits.",
        Effect.READ,
        {
            "from": _text("branch, tag or commit hash to compare from"),
            "to": {**_REF, "description": "branch, tag or commit hash; default: the head"},
            "path": _text("only this file or folder"),
        },
        ("from",),
    ),
    _spec(
        "branch",
        "Create a branch",
        "Create a branch in the platform's own clone of the git repository, to commit to and push."
        " The source is not changed.",
        Effect.WRITE,
        {"name": _text("name of the new branch"), "from": _REF},
        ("name",),
    ),
    _spec(
        "commit",
        "Commit files",
        "Commit new contents of files to a branch in the platform's own clone of the git"
        " repository. The source is not changed before push.",
        Effect.WRITE,
        {
            "branch": _text("branch made by the branch tool, or a branch of the source"),
            "message": {
                "type": "string", "minLength": 1, "maxLength": 65536,
                "description": "commit message, the first line its title",
            },
            "files": {
                "type": "array", "minItems": 1, "maxItems": COMMIT_FILES_MAX,
                "description": "files to write or delete",
                "items": {
                    "type": "object",
                    "properties": {
                        "path": _text("path inside the repository"),
                        "content": {"type": "string", "description": "the file's whole new text"},
                        "delete": _flag("delete the file instead"),
                    },
                    "required": ["path"],
                    "additionalProperties": False,
                },
            },
            "author_name": _text("author's name; default: Agentcy"),
            "author_email": _text("author's address; default: agentcy@localhost"),
        },
        ("branch", "message", "files"),
    ),
    _spec(
        "push",
        "Push a branch",
        "Push a branch of the platform's own clone to the source of the git repository. Never"
        " forced, and never to a branch that somebody has checked out.",
        Effect.WRITE,
        {"branch": _text("branch to push"), "to": _text("branch there; default: the same name")},
        ("branch",),
    ),
)  # fmt: skip
