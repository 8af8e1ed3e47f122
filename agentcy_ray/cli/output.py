"""What a command prints: tables for people, JSON for programs, errors without tracebacks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from agentcy_ray.core.errors import (
    AgentcyError,
    ConfigError,
    RefusedError,
    RequestError,
    StoreUnavailableError,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

DONE, FAILED, USAGE, REFUSED, UNREACHABLE = range(5)
"""Exit codes: done, failed, usage or configuration, refused, not reachable."""


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
    """An error for a person (two lines at most) or a program; never a traceback."""
    if as_json:
        print_json({"error": error.body()})
        return
    notes().print(f"[bold red]{error.code}[/]: ", end="")
    notes().print(error.message, markup=False)


def print_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, title: str | None = None
) -> None:
    """A table of the named columns; absent values stay blank."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
        count += 1
    if count:
        console().print(table)
    else:
        console().print("[dim]nothing yet[/]")


def cell(value: Any) -> str:
    """One value as table text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, (dict, list)):
        return orjson.dumps(value, default=str).decode()
    return str(value)
