"""``agentcy audit``: what was decided and done."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import orjson
import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import FAILED, JsonFlag, console, print_json, print_rows
from agentcy_ray.cli.session import call

app = typer.Typer(help="Audit: tail, export, verify.", no_args_is_help=True)
COLUMNS = ["seq", "ts", "action", "decision", "tool", "reasons", "user_id"]


@app.command()
def tail(
    limit: Annotated[int, typer.Option("-n", "--limit", help="Entries to begin with.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new ones.")] = False,
    json: JsonFlag = False,
) -> None:
    """The newest entries, oldest of them first."""

    async def work(client: Client) -> None:
        page = await client.get("/policies/audit", limit=limit)
        rows = list(reversed(page["items"]))
        _print(rows, json)
        if not follow:
            return
        last = rows[-1]["seq"] if rows else 0
        async for event in client.stream("/policies/audit/stream", after=last):
            if json:
                sys.stdout.write(orjson.dumps(event.data).decode() + "\n")
                sys.stdout.flush()
            else:
                row = flat(event.data)
                console().print(*(str(row.get(column) or "") for column in COLUMNS))

    call(work)


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="Where to write; - for standard output.")] = "-",
    form: Annotated[str, typer.Option("--format", help="ndjson or csv.")] = "ndjson",
    json: JsonFlag = False,
) -> None:
    """Write the whole log to a file, streamed."""

    async def work(client: Client) -> int:
        return await client.download("/policies/audit.csv" if form == "csv" else
                                     "/policies/audit.ndjson", file)  # fmt: skip

    size = call(work)
    if json:
        print_json({"file": file, "bytes": size})
    elif file != "-":
        console().print(f"{size:,} bytes in {file}")


@app.command()
def verify(json: JsonFlag = False) -> None:
    """Check the hash chain from the first entry to the last."""
    answer = call(lambda client: client.get("/policies/audit/verify"))
    if json:
        print_json(answer)
    elif answer["ok"]:
        console().print(f"[green]the chain holds[/]: {answer['checked']:,} entries")
    else:
        console().print(f"[red]the chain breaks at seq {answer['first_bad_seq']}[/]")
    if not answer["ok"]:
        raise typer.Exit(FAILED)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """An entry with the tool's name lifted out of its resource."""
    return {**row, "tool": (row.get("resource") or {}).get("tool")}


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_rows([flat(row) for row in rows], COLUMNS)
