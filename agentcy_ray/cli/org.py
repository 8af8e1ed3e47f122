"""``agentcy org``: what the organisation says about itself, who owns it, its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from agentcy_ray.cli.output import JsonFlag, console, print_json, print_record, print_rows
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError

app = typer.Typer(
    help="The organisation: show, change, usage, transfer, delete.", no_args_is_help=True
)
SUMS = ["in_tokens", "out_tokens", "cost_usd", "gpu_seconds", "tool_calls"]
GROUPS = ("day", "agent", "user", "model")

Day = Annotated[str | None, typer.Option(metavar="DAY", help="As 2026-04-24; unset: today.")]


@app.command()
def show(json: JsonFlag = False) -> None:
    """Show the organisation and its settings."""
    _print(call(lambda client: client.get("/org")), json)


@app.command()
def change(
    name: Annotated[str | None, typer.Option(help="What people read.")] = None,
    audit_days: Annotated[
        int | None, typer.Option(help="Days that audit entries are kept; 0 = as the install says.")
    ] = None,
    policy_settings: Annotated[
        Path | None, typer.Option(help="A JSON file that policies read as data.settings.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Change what is given; the rest stays."""
    settings: dict[str, Any] = {}
    if audit_days is not None:
        settings["retention"] = {"audit_days": audit_days or None}
    if policy_settings is not None:
        settings["policy_settings"] = _read(policy_settings)
    if name is None and not settings:
        raise BadRequestError("say what to change; see `agentcy org change --help`", code="usage")
    body = {"display_name": name, "settings": settings}
    _print(call(lambda client: client.patch("/org", body)), json)


@app.command()
def usage(
    by: Annotated[
        list[str] | None, typer.Option("--by", help="day, agent, user or model; several times.")
    ] = None,
    since: Day = None,
    until: Day = None,
    json: JsonFlag = False,
) -> None:
    """Print tokens, cost and tool calls; runs are counted once they have ended."""
    groups = by or ["day"]
    found = call(lambda client: client.get("/org/usage", since=since, until=until, group_by=groups))
    if json:
        print_json(found)
        return
    title = f"{found['since']} to {found['until']}"
    print_rows(found["rows"], [*(g for g in GROUPS if g in groups), *SUMS], title=title)


@app.command()
def transfer(
    user: Annotated[str, typer.Argument(help="Who is to be the owner (usr_…).")],
    json: JsonFlag = False,
) -> None:
    """Make another user the owner; you become an admin."""
    heir = call(lambda client: client.post("/org/transfer", {"user_id": user}))
    if json:
        print_json(heir)
    else:
        console().print(f"{heir['email']} owns the organisation now", markup=False)


@app.command()
def delete(
    confirm: Annotated[str, typer.Option(help="The organisation's short name, to be sure.")],
    json: JsonFlag = False,
) -> None:
    """Close the organisation at once and delete all of it but its audit log."""
    found = call(lambda client: client.delete("/org", {"confirm": confirm}))
    if json:
        print_json(found)
    else:
        console().print(f"{confirm} is closed and is being deleted: {found['job_id']}")


def _read(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise BadRequestError(f"cannot read {path}: {error.strerror or error}") from error
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"{path} is no JSON: {error}") from error


def _print(org: dict[str, Any], json: bool) -> None:
    if json:
        print_json(org)
        return
    kept = org["settings"]["retention"]["audit_days"]
    row = {
        **org,
        "audit_days": kept or "as the install says",
        "policy_settings": org["settings"]["policy_settings"],
    }
    columns = ["id", "name", "display_name", "context_engine", "audit_days", "policy_settings"]
    print_record({name: row[name] for name in columns})
