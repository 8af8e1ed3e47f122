"""``agentcy audit``: what was decided and done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import orjson
import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.moments import Moment
from agentcy_ray.cli.output import FAILED, JsonFlag, console, print_json, print_rows
from agentcy_ray.cli.progress import bar
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError

app = typer.Typer(help="Audit: list, tail, export, verify.", no_args_is_help=True)
COLUMNS = ["seq", "ts", "action", "decision", "tool", "reasons", "category", "user_id"]
PAGE = 200
STRETCH = 20_000
"""Entries that the server checks in one request: about a second of its work."""

Form = Literal["ndjson", "csv", "parquet"]
Limit = Annotated[int, typer.Option("-n", "--limit", min=0, help="Entries at most.")]
Decision = Annotated[str | None, typer.Option(help="allow or deny.")]
Action = Annotated[str | None, typer.Option(help="For example chat.tool.execute.")]
Category = Annotated[str | None, typer.Option(help="policy auth connector chat channel admin …")]
Connector = Annotated[str | None, typer.Option(help="Of tool calls.")]
Tool = Annotated[str | None, typer.Option(help="For example files.write_file.")]
User = Annotated[str | None, typer.Option(help="usr_…")]
ApiKey = Annotated[str | None, typer.Option(help="key_…")]
Run = Annotated[str | None, typer.Option(help="run_…")]


@app.command("list")
def list_entries(
    limit: Limit = 50,
    decision: Decision = None,
    action: Action = None,
    category: Category = None,
    connector: Connector = None,
    tool: Tool = None,
    user: User = None,
    api_key: ApiKey = None,
    run: Run = None,
    since: Moment = None,
    until: Moment = None,
    json: JsonFlag = False,
) -> None:
    """The newest entries that match, newest first."""
    where = _where(decision, action, category, connector, tool, user, api_key, run, since, until)
    _print(call(lambda client: _newest(client, limit, where)), json)


@app.command()
def tail(
    limit: Limit = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new ones.")] = False,
    decision: Decision = None,
    action: Action = None,
    category: Category = None,
    connector: Connector = None,
    tool: Tool = None,
    user: User = None,
    api_key: ApiKey = None,
    run: Run = None,
    json: JsonFlag = False,
) -> None:
    """The newest entries, oldest of them first; with --follow also what comes, one a line."""
    where = _where(decision, action, category, connector, tool, user, api_key, run, None, None)

    async def work(client: Client) -> None:
        last = await _head(client)
        rows = list(reversed(await _newest(client, limit, where)))
        if not follow:
            _print(rows, json)
            return
        for row in rows:
            _print_line(row, json)
        last = max([last, *(row["seq"] for row in rows)])
        async for event in client.stream("/policies/audit/stream", last, **where):
            _print_line(event.data, json)

    call(work)


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="Where to write; - for standard output.")] = "-",
    form: Annotated[
        str | None,
        typer.Option("--format", help="ndjson, csv or parquet; unset: by the file's name."),
    ] = None,
    decision: Decision = None,
    action: Action = None,
    category: Category = None,
    connector: Connector = None,
    tool: Tool = None,
    user: User = None,
    api_key: ApiKey = None,
    run: Run = None,
    since: Moment = None,
    until: Moment = None,
    json: JsonFlag = False,
) -> None:
    """Write the entries that match to a file, oldest first, streamed."""
    kind = _form(form, file)
    where = _where(decision, action, category, connector, tool, user, api_key, run, since, until)

    async def work(client: Client) -> int:
        with bar("exporting", unit="bytes", quiet=json or file == "-") as told:
            return await client.download(f"/policies/audit.{kind}", file, told, **where)

    size = call(work)
    if json and file == "-":
        return  # standard output holds the entries
    if json:
        print_json({"file": file, "format": kind, "bytes": size})
    elif file != "-":
        console().print(f"{size:,} bytes in {file}")


@app.command()
def verify(
    first: Annotated[int | None, typer.Option("--from", min=1, help="First seq to check.")] = None,
    last: Annotated[int | None, typer.Option("--to", min=1, help="Last seq to check.")] = None,
    json: JsonFlag = False,
) -> None:
    """Check the hash chain, from the oldest entry that is kept to the newest."""

    async def work(client: Client) -> dict[str, Any]:
        head = await _head(client)
        begin, end = first or 1, min(last or head, head)
        checked = 0
        with bar("verifying", unit="entries", total=max(0, end - begin + 1), quiet=json) as told:
            while True:
                stop = begin + STRETCH - 1
                # The last stretch of a whole check has no end: it looks at the head, too.
                upto = stop if stop < end else last
                answer = await client.get("/policies/audit/verify", from_seq=begin, to_seq=upto)
                checked += answer["checked"]
                told(min(stop, end) - (first or 1) + 1)
                if not answer["ok"] or stop >= end:
                    return {**answer, "checked": checked}
                begin = stop + 1

    answer = call(work)
    if json:
        print_json(answer)
    elif answer["ok"]:
        console().print(f"[green]the chain holds[/]: {answer['checked']:,} entries")
    else:
        console().print(f"[red]the chain breaks at seq {answer['first_bad_seq']}[/]")
    if not answer["ok"]:
        raise typer.Exit(FAILED)


async def _newest(client: Client, limit: int, where: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(rows) < limit:
        size = min(PAGE, limit - len(rows))
        page = await client.get("/policies/audit", limit=size, cursor=cursor, **where)
        rows += page["items"]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    return rows


async def _head(client: Client) -> int:
    page = await client.get("/policies/audit", limit=1)
    return page["items"][0]["seq"] if page["items"] else 0


def _where(
    decision: str | None,
    action: str | None,
    category: str | None,
    connector: str | None,
    tool: str | None,
    user: str | None,
    api_key: str | None,
    run: str | None,
    since: str | None,
    until: str | None,
) -> dict[str, Any]:
    """The query of the audit routes."""
    return {
        "decision": decision,
        "action": action,
        "category": category,
        "connector": connector,
        "resource.tool": tool,
        "user_id": user,
        "api_key_id": api_key,
        "run_id": run,
        "since": since,
        "until": until,
    }


def _form(form: str | None, file: str) -> Form:
    """The format that was asked for, or that the file's name says; NDJSON for standard output."""
    said = form or Path(file).suffix.removeprefix(".") or "ndjson"
    if said not in {"ndjson", "csv", "parquet"}:
        raise BadRequestError(f"no format {said!r}; say --format ndjson, csv or parquet")
    if said == "parquet" and file == "-" and sys.stdout.isatty():
        raise BadRequestError("a Parquet file is not for a terminal; name a file to write to")
    return cast(Form, said)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """An entry with the tool's name lifted out of its resource."""
    return {**row, "tool": (row.get("resource") or {}).get("tool")}


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_rows([_flat(row) for row in rows], COLUMNS)


def _print_line(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(orjson.dumps(row).decode() + "\n")
        sys.stdout.flush()
        return
    flat = _flat(row)
    color = "red" if flat["decision"] == "deny" else "green"
    console().print(f"[dim]{flat['seq']} {flat['ts']}[/] [{color}]{flat['decision']}[/]", end=" ")
    rest = (flat["action"], flat["tool"], "; ".join(flat["reasons"]), flat["user_id"])
    console().print(*(part for part in rest if part), markup=False)
