"""``agentcy engine``: which engine answers, and the move from Basic to Advanced."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentcy_ray.cli import progress
from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import FAILED, JsonFlag, console, print_json, print_rows
from agentcy_ray.cli.progress import Seen, numbers
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import NotFoundError

app = typer.Typer(help="The context engine: migrate, status, cancel.", no_args_is_help=True)

PATH = "/context/migrations"
ENDED = {"done", "failed", "cancelled"}


@app.command()
def migrate(
    follow: Annotated[bool, typer.Option(help="Stay and show how far it is.")] = True,
    json: JsonFlag = False,
) -> None:
    """Move to the Advanced engine; queries and syncs go on meanwhile. There is no way back."""

    async def work(client: Client) -> dict[str, Any]:
        started = await client.post(PATH, {})
        return await watch(client, started["migration"]["id"], quiet=json) if follow else started

    _show(call(work), json=json)


@app.command()
def status(
    follow: Annotated[bool, typer.Option(help="Stay until a move has ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """Which engine answers, and how far the newest move is."""

    async def work(client: Client) -> tuple[str, dict[str, Any] | None]:
        engine = str((await client.get("/context/capabilities"))["engine"])
        found = await newest(client)
        if found is not None and follow:
            found = await watch(client, found["migration"]["id"], quiet=json)
        return engine, found

    engine, state = call(work)
    if json:
        print_json({"engine": engine, **(state or {"migration": None})})
        return
    console().print(f"engine: [bold]{engine}[/]")
    if state is not None:
        _describe(state)


@app.command()
def cancel(json: JsonFlag = False) -> None:
    """Call the move off before its cut-over; Basic goes on as before."""

    async def work(client: Client) -> dict[str, Any]:
        found = await newest(client)
        if found is None:
            raise NotFoundError("there is no migration; `agentcy engine migrate` starts one")
        return await client.post(f"{PATH}/{found['migration']['id']}/cancel")

    state = call(work)
    if json:
        print_json(state)
    else:
        _describe(state)


async def newest(client: Client) -> dict[str, Any] | None:
    """The newest migration with how far it is, None when there never was one."""
    rows = (await client.get(PATH, limit=1))["items"]
    return await client.get(f"{PATH}/{rows[0]['id']}") if rows else None


async def watch(client: Client, migration_id: str, *, quiet: bool) -> dict[str, Any]:
    """Follow a migration to its end, across outages, drawing its progress unless ``quiet``."""

    async def look() -> dict[str, Any]:
        return await client.get(f"{PATH}/{migration_id}")

    def shown(state: dict[str, Any]) -> Seen:
        status = state["migration"]["status"]
        ended = summary(state["migration"]) if status in ENDED else None
        return status, state.get("progress") or {}, ended

    return await progress.follow(look, shown, quiet=quiet)


def summary(migration: dict[str, Any]) -> str:
    """What a migration moved, or why it did not."""
    if migration.get("error"):
        return str(migration["error"].get("message", migration["error"]))
    sums = migration.get("checksums") or {}
    parts = [
        f"{sums[kind]['count']:,} {kind}" for kind in ("nodes", "edges") if kind in sums
    ]  # fmt: skip
    if sums:
        parts.append(f"{sums['groups']:,} groups compared, {sums['repaired']:,} entities mended")
    return " · ".join(parts)


def _show(state: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(state)
    else:
        _describe(state)
    if state["migration"]["status"] == "failed":
        raise typer.Exit(FAILED)


def _describe(state: dict[str, Any]) -> None:
    migration = state["migration"]
    shown = console()
    shown.print(f"{migration['id']}: [bold]{migration['status']}[/]", highlight=False)
    for line in (numbers(state.get("progress") or {}), summary(migration)):
        if line:
            shown.print(line, markup=False, highlight=False)
    if state.get("prune_after"):
        shown.print(f"Basic keeps its rows until {state['prune_after']}", highlight=False)
    if migration["differences"]:
        columns = ["round", "kind", "realm", "name", "basic", "advanced"]
        print_rows(migration["differences"], columns)
