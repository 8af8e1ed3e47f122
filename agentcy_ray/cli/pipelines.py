"""``agentcy pipelines``: continuous pipelines, their tokens and runs; ``agentcy ingest``."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import orjson
import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import (
    FAILED,
    JsonFlag,
    console,
    notes,
    print_json,
    print_record,
    print_rows,
)
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError, NotFoundError

app = typer.Typer(
    help="Continuous pipelines: list, create, token, runs, remove, ingest.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="Name or id of the pipeline.")]
PIECE_BYTES = 8 * 1024 * 1024
"""Lines of one request, before they are packed."""
SHOWN = 10


@app.command("list")
def list_pipelines(json: JsonFlag = False) -> None:
    """List pipelines."""
    rows = call(lambda client: client.items("/context/pipelines"))
    if json:
        print_json(rows)
    else:
        for row in rows:
            row["table"] = row["target_table"].removeprefix("context_")
        print_rows(rows, ["name", "kind", "table", "realm", "enabled", "id"])


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name, unique in your organisation.")],
    kind: Annotated[str, typer.Option(help="webhook, file_drop, connector or otlp.")] = "webhook",
    table: Annotated[
        str, typer.Option(help="nodes, edges or events; what its records become.")
    ] = "events",
    realm: Annotated[str, typer.Option(help="Realm of what it takes.")] = "default",
    option: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="A config entry key=value.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", "-m", help="field=path.in.record, or field==constant."),
    ] = None,
    sign: Annotated[bool, typer.Option("--sign", help="Take signed requests only.")] = False,
    json: JsonFlag = False,
) -> None:
    """Make a pipeline."""
    body = {
        "name": name,
        "kind": kind,
        "target_table": table if table.startswith("context_") else f"context_{table}",
        "realm": realm,
        "config": dict(_pair(each, "--set") for each in option or ()),
        "mapping": dict(_mapped(each) for each in mapping or ()),
        "require_signature": sign,
    }
    made = call(lambda client: client.post("/context/pipelines", body))
    if json:
        print_json(made)
        return
    console().print(f"made [bold]{made['name']}[/] ({made['id']})")
    if kind in ("webhook", "otlp"):
        console().print(f"next: agentcy pipelines token {name}")


@app.command()
def token(
    pipeline: Name,
    name: Annotated[str, typer.Option(help="What the token is for.")] = "cli",
    secret: Annotated[bool, typer.Option("--secret", help="With a signing secret.")] = False,
    json: JsonFlag = False,
) -> None:
    """Make a token; it is shown this once."""

    async def work(client: Client) -> Any:
        found = await find(client, pipeline)
        body = {"name": name, "with_secret": secret}
        return await client.post(f"/context/pipelines/{found['id']}/tokens", body)

    made = call(work)
    if json:
        print_json(made)
        return
    print_record({name: made[name] for name in ("token", "secret", "url") if made.get(name)})
    notes().print("[dim]shown this once; post lines of JSON to the URL[/]")


@app.command()
def runs(pipeline: Name, json: JsonFlag = False) -> None:
    """What a pipeline took, newest first."""

    async def work(client: Client) -> list[dict[str, Any]]:
        found = await find(client, pipeline)
        return await client.items(f"/context/pipelines/{found['id']}/runs")

    rows = call(work)
    if json:
        print_json(rows)
        return
    columns = ["id", "status", "accepted", "rejected", "started_at"]
    print_rows(rows, [*columns, "requests", "segments", "published"])


@app.command()
def remove(pipeline: Name, json: JsonFlag = False) -> None:
    """Delete a pipeline with its tokens; what it took stays."""

    async def work(client: Client) -> str:
        found = await find(client, pipeline)
        await client.delete(f"/context/pipelines/{found['id']}")
        return str(found["name"])

    removed = call(work)
    if json:
        print_json({"removed": removed})
    else:
        console().print(f"removed {removed}", markup=False)


@app.command()
def ingest(
    pipeline: Name,
    file: Annotated[str, typer.Argument(help="A file with a JSON object a line; - = stdin.")],
    with_token: Annotated[
        str | None, typer.Option("--token", help="Its token; unset: one for this command alone.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Post a file of records. The same file again within a day adds nothing."""

    async def work(client: Client) -> dict[str, Any]:
        if with_token is not None:
            return await _feed(client, with_token, file, quiet=json)
        found = await find(client, pipeline)
        path = f"/context/pipelines/{found['id']}/tokens"
        made = await client.post(path, {"name": "agentcy ingest"})
        try:
            return await _feed(client, made["token"], file, quiet=json)
        finally:
            await client.delete(f"{path}/{made['id']}")

    total = call(work)
    if json:
        print_json(total)
    else:
        console().print(f"{total['accepted']:,} accepted, {total['rejected']:,} rejected")
        if total["errors"]:
            print_rows(total["errors"][:SHOWN], ["line", "reason"])
    if total["rejected"] and not total["accepted"]:
        raise typer.Exit(FAILED)


async def find(client: Client, name: str) -> dict[str, Any]:
    """A pipeline by name or id.

    Raises:
        NotFoundError: there is none.
    """
    if name.startswith("pip_"):
        return await client.get(f"/context/pipelines/{name}")
    for found in await client.items("/context/pipelines"):
        if found["name"] == name:
            return found
    raise NotFoundError(f"no pipeline is called {name!r}; see `agentcy pipelines list`")


async def _feed(client: Client, token: str, file: str, *, quiet: bool) -> dict[str, Any]:
    total: dict[str, Any] = {"accepted": 0, "rejected": 0, "errors": [], "runs": []}
    source = sys.stdin.buffer if file == "-" else _opened(file)
    with source:
        for first, piece in _pieces(source):
            said = await client.feed(token, gzip.compress(piece, 1), sha256(piece).hexdigest())
            total["accepted"] += said["accepted"]
            total["rejected"] += said["rejected"]
            total["errors"] += [
                {**error, "line": error["line"] + first} for error in said["errors"]
            ]
            if said["run_id"] not in total["runs"]:
                total["runs"].append(said["run_id"])
            if not quiet:
                notes().print(f"[dim]{total['accepted']:,} accepted[/]", end="\r")
    return total


def _pieces(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Whole lines, some at a time, with the number of lines before them."""
    before = 0
    while lines := source.readlines(PIECE_BYTES):
        yield before, b"".join(lines)
        before += len(lines)


def _opened(file: str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise BadRequestError(f"cannot read {file}: {error.strerror or error}") from error


def _pair(text: str, flag: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise BadRequestError(f"{flag} {text!r} is not key=value")
    return key, value


def _mapped(text: str) -> tuple[str, Any]:
    key, how = _pair(text, "--map")
    if not how.startswith("="):
        return key, how
    try:
        return key, {"const": orjson.loads(how[1:])}
    except orjson.JSONDecodeError:
        return key, {"const": how[1:]}
