"""What a command prints: tables for people, JSON for programs, errors without tracebacks."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.text import Text

from agentcy_ray.cli import tables
from agentcy_ray.core.errors import (
    AgentcyError,
    ConfigError,
    RefusedError,
    RequestError,
    StoreUnavailableError,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

BRIEF_LINES = 6
"""Of each long text in a brief table."""

DONE, FAILED, USAGE, REFUSED, UNREACHABLE = range(5)
"""Exit codes: done, failed, usage or configuration, refused, not reachable."""
STOPPED = 130
"""Exit code after Ctrl-C, as of a shell."""


class ServerUnreachableError(StoreUnavailableError):
    """The platform's API does not answer where we look for it."""

    code = "not_reachable"


def exit_code(error: AgentcyError) -> int:
    """The documented exit code of an error."""
    match error:
        case ServerUnreachableError():
            return UNREACHABLE
        case RefusedError():
            return REFUSED
        case ConfigError():
            return USAGE
        case RequestError() if error.status in {400, 422}:
            return USAGE
        case _:
            return FAILED


def console() -> Console:
    """Text for people, on standard output."""
    return Console(highlight=False, soft_wrap=True)


def notes() -> Console:
    """Progress and remarks, on standard error, so that a pipe gets results only."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(value, default=str, option=options).decode() + "\n")


def print_error(error: AgentcyError, *, as_json: bool) -> None:
    """An error for a person or a program; never a traceback."""
    if as_json:
        print_json({"error": error.body()})
        return
    notes().print(f"[bold red]{error.code}[/]: ", end="")
    notes().print(harmless(error.message), markup=False)


def harmless(text: str) -> str:
    """Text of others without what a terminal would obey; lines and tabs stay."""
    return _CONTROL.sub("", text)


def print_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    title: str | None = None,
    brief: bool = False,
) -> None:
    """A table of the named columns, the most wanted first; absent values stay blank.

    Args:
        rows: by column; what is in no column is left out.
        columns: names of values, and headers.
        title: printed above.
        brief: show the first lines of long texts only, where there is a terminal.
    """
    values = [[row.get(column) for column in columns] for row in rows]
    print_table(values, [_header(column) for column in columns], title=title, brief=brief)


def print_table(
    rows: Iterable[Sequence[Any]],
    names: Sequence[str],
    *,
    title: str | None = None,
    brief: bool = False,
) -> None:
    """A table of values in the order of these headers, of which two may be the same."""
    cells = [[cell(value) for value in row] for row in rows]
    if cells:
        most = BRIEF_LINES if brief else None
        _print_lines(tables.table(cells, names, terminal_width(), most=most), title)
    else:
        notes().print("[dim]nothing found[/]")


def print_record(row: Mapping[str, Any]) -> None:
    """One object as ``name  value`` lines; absent values are left out."""
    fields = [(_header(name), cell(value)) for name, value in row.items()]
    _print_lines(tables.record(fields, terminal_width()))


def scoped(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose limit to realms says in words of the command line what no limit is."""
    realms = row["realms"]
    return {**row, "realms": "*" if realms is None else realms or "none"}


def terminal_width() -> int | None:
    """Character cells of a line of standard output; None when that is no terminal."""
    return console().width if sys.stdout.isatty() else None


def cell(value: Any) -> str:
    """One value as text for people."""
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list) and not any(isinstance(each, (dict, list)) for each in value):
        shown = [cell(each) for each in value]
        return ("; " if any(" " in each for each in shown) else ", ").join(shown)
    if isinstance(value, (dict, list)):
        return json.dumps(value, default=str, ensure_ascii=False)  # with blanks, so it can wrap
    return str(value)


def _header(name: str) -> str:
    return name.replace("_", " ")


def _print_lines(lines: Iterable[Text], title: str | None = None) -> None:
    out = console()
    if title:
        out.print(title, style="italic", markup=False)
    for line in lines:
        out.print(line)
