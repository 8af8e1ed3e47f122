"""Tools of the ``files`` connector: names, arguments and effects."""

from __future__ import annotations

from typing import Any

from agentcy_ray.core.tools import Effect, ToolSpec

LIST_MAX, SEARCH_MAX = 2000, 500
READ_BYTES_MAX = 256 * 1024

_TEXT = {"type": "string", "minLength": 1, "maxLength": 4096}


def _text(description: str) -> dict[str, Any]:
    return {**_TEXT, "description": description}


def _limit(default: int, most: int, what: str) -> dict[str, Any]:
    return {
        "type": "integer", "minimum": 1, "maximum": most, "default": default, "description": what,
    }  # fmt: skip


def _flag(description: str) -> dict[str, Any]:
    return {"type": "boolean", "default": False, "description": description}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


READ_TOOLS = (
    ToolSpec(
        name="list_files",
        title="List files",
        description="List the files of a folder and the folders in it, with sizes and times of"
        " change.",
        effect=Effect.READ,
        input_schema=_object({
            "path": _text("folder to list; default: all of them"),
            "glob": _text("only files that match, for example *.md or docs/**"),
            "limit": _limit(200, LIST_MAX, "files to return"),
        }),
    ),
    ToolSpec(
        name="read_file",
        title="Read a file",
        description="Read the text of a file in the folder: Markdown, code, HTML, PDF or an Office"
        " document.",
        effect=Effect.READ,
        input_schema=_object(
            {
                "path": _text("path of the file below the root"),
                "start_line": {
                    "type": "integer", "minimum": 1, "default": 1,
                    "description": "first line to read",
                },
                "lines": _limit(2000, 20_000, "lines to read"),
            },
            "path",
        ),
    ),
    ToolSpec(
        name="search_text",
        title="Search in files",
        description="Search the text files of the folder for lines that match a regular expression"
        " or a plain text.",
        effect=Effect.READ,
        input_schema=_object(
            {
                "pattern": _text("RE2 regular expression, or plain text with literal"),
                "glob": _text("only files that match, for example *.py"),
                "ignore_case": _flag("match upper and lower case alike"),
                "literal": _flag("take the pattern as plain text"),
                "limit": _limit(100, SEARCH_MAX, "matching lines to return"),
            },
            "pattern",
        ),
    ),
)  # fmt: skip

WRITE_FILE = ToolSpec(
    name="write_file",
    title="Write a file",
    description="Write a text file in the folder whole, replacing the one that is there and making"
    " folders as needed.",
    effect=Effect.WRITE,
    idempotent=True,
    input_schema=_object(
        {
            "path": _text("path of the file below the root"),
            "content": {"type": "string", "description": "the file's whole new text"},
        },
        "path",
        "content",
    ),
)
