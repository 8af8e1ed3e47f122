"""``agentcy sources``: where knowledge comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import FAILED, JsonFlag, console, print_json, print_rows
from agentcy_ray.cli.patience import until
from agentcy_ray.cli.progress import SyncView, summary
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError, NotFoundError

app = typer.Typer(
    help="Sources: list, add, test, sync, runs, packages, revert, remove.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="Name or id of the source.")]
ENDED = {"synced", "failed", "cancelled"}


@app.command("list")
def list_sources(json: JsonFlag = False) -> None:
    """List sources with their state."""
    rows = call(lambda client: client.items("/sources"))
    if json:
        print_json(rows)
    else:
        for row in rows:
            row["status"] = row["status"] if row["enabled"] else "disabled"
        print_rows(rows, ["name", "connector", "realm", "status", "id"])


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A name, unique in your organisation.")],
    connector: Annotated[str, typer.Argument(help="git, files, csv, json, …")],
    option: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="A config entry key=value; JSON values are read as JSON."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with the config.")] = None,
    realm: Annotated[str | None, typer.Option(help="Realm; default: the connector's.")] = None,
    pin_host: Annotated[
        list[str] | None,
        typer.Option(help="The only hosts that it may connect to; *.example.com for a domain."),
    ] = None,
    pin_port: Annotated[list[int] | None, typer.Option(help="The only ports.")] = None,
    pin_cidr: Annotated[list[str] | None, typer.Option(help="The only address ranges.")] = None,
    pin_tls_sha256: Annotated[
        str | None, typer.Option(help="SHA-256 of the server's certificate, hexadecimal.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Add a source."""
    pins = {"hosts": pin_host, "ports": pin_port, "cidrs": pin_cidr, "tls_sha256": pin_tls_sha256}
    body = {
        "name": name,
        "connector": connector,
        "realm": realm,
        "config": _config(config, option),
        "egress": {key: value for key, value in pins.items() if value} or None,
    }
    body = {key: value for key, value in body.items() if value is not None}
    source = call(lambda client: client.post("/sources", body))
    if json:
        print_json(source)
    else:
        console().print(f"added [bold]{source['name']}[/] ({source['id']}); "
                        f"next: agentcy sources sync {source['name']}")  # fmt: skip


@app.command()
def test(name: Name, json: JsonFlag = False) -> None:
    """Reach the source with its credentials."""

    async def work(client: Client) -> Any:
        source = await find(client, name)
        return await client.post(f"/sources/{source['id']}/test")

    answer = call(work)
    if json:
        print_json(answer)
    elif answer["ok"]:
        console().print(f"[green]{name} works[/]")
    else:
        print_rows(answer["faults"], ["kind", "message"])
    if not answer["ok"]:
        raise typer.Exit(FAILED)


@app.command()
def sync(
    name: Name,
    full: Annotated[bool, typer.Option("--full", help="Read everything again.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Pass the publish guard.")] = False,
    json: JsonFlag = False,
) -> None:
    """Pull the source into the Context Engine and the vectors, with live progress."""

    async def work(client: Client) -> dict[str, Any]:
        source = await find(client, name)
        body = {"mode": "full"} if full else {}
        started = await client.post(f"/sources/{source['id']}/sync", {**body, "force": force})
        return await watch(client, started["sync_run_id"], quiet=json)

    run = call(work)
    if json:
        print_json(run)
    if run["status"] != "synced":
        raise typer.Exit(FAILED)


@app.command()
def runs(name: Name, json: JsonFlag = False) -> None:
    """Sync runs of a source, newest first."""

    async def work(client: Client) -> list[dict[str, Any]]:
        source = await find(client, name)
        return await client.items(f"/sources/{source['id']}/runs")

    rows = call(work)
    if json:
        print_json(rows)
    else:
        for row in rows:
            row["came_to"] = summary(row) if row["status"] in ENDED else None
        print_rows(rows, ["id", "status", "mode", "started_at", "kind", "ended_at", "came_to"])


@app.command()
def packages(name: Name, json: JsonFlag = False) -> None:
    """Packages of a source: the states that it can be reverted to."""

    async def work(client: Client) -> list[dict[str, Any]]:
        source = await find(client, name)
        return await client.items(f"/sources/{source['id']}/packages")

    rows = call(work)
    if json:
        print_json(rows)
    else:
        for row in rows:
            kinds = [kind for kind in ("nodes", "edges", "documents") if kind in row["counts"]]
            row["holds"] = ", ".join(f"{row['counts'][kind]:,} {kind}" for kind in kinds)
        print_rows(rows, ["id", "state", "created_at", "published_at", "holds"])


@app.command()
def revert(
    name: Name,
    package: Annotated[str, typer.Argument(help="Id of the package (agentcy sources packages).")],
    json: JsonFlag = False,
) -> None:
    """Publish an older state of the source again."""

    async def work(client: Client) -> dict[str, Any]:
        source = await find(client, name)
        started = await client.post(f"/sources/{source['id']}/revert", {"package_id": package})
        return await watch(client, started["sync_run_id"], quiet=json)

    run = call(work)
    if json:
        print_json(run)
    if run["status"] != "synced":
        raise typer.Exit(FAILED)


@app.command()
def remove(
    name: Name,
    purge: Annotated[
        bool, typer.Option("--purge", help="Hide what came from it at once, and delete that later.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Delete a source with its secrets, runs and packages; what came from it stays, or goes too."""

    async def work(client: Client) -> dict[str, Any]:
        source = await find(client, name)
        started = await client.delete(f"/sources/{source['id']}", purge=purge or None)
        return {"removed": source["name"], "job_id": (started or {}).get("job_id")}

    done = call(work)
    if json:
        print_json(done)
    else:
        console().print(f"removed {done['removed']}", markup=False)


async def find(client: Client, name: str) -> dict[str, Any]:
    """A source by name or id.

    Raises:
        NotFoundError: there is none; the message lists the names that exist.
    """
    rows = await client.items("/sources")
    for row in rows:
        if name in {row["name"], row["id"]}:
            return row
    names = ", ".join(row["name"] for row in rows)
    there = f"there are: {names}" if names else "there is none yet; `agentcy sources add` makes one"
    raise NotFoundError(f"no source {name!r}; {there}")


async def watch(client: Client, sync_run_id: str, *, quiet: bool) -> dict[str, Any]:
    """Follow a sync run to its end, across outages, drawing its progress unless ``quiet``."""
    with SyncView(quiet=quiet) as view:

        async def look() -> dict[str, Any] | None:
            run = await client.get(f"/sync-runs/{sync_run_id}")
            view.update(run)
            return run if run["status"] in ENDED else None

        return await until(look)


def _config(path: Path | None, options: list[str] | None) -> dict[str, Any]:
    try:
        config: dict[str, Any] = orjson.loads(path.read_bytes()) if path else {}
    except OSError as error:
        raise BadRequestError(f"cannot read the config {path}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the config {path} is no JSON: {error}") from error
    for option in options or []:
        key, separator, value = option.partition("=")
        if not separator:
            raise BadRequestError(f"--set {option!r} is not key=value")
        config[key] = _value(value)
    return config


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
