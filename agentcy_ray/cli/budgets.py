"""``agentcy budgets``: what may be used."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentcy_ray.cli.output import JsonFlag, console, print_json, print_rows
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError

app = typer.Typer(help="Budgets: list, set.", no_args_is_help=True)
COLUMNS = ["scope", "subject", "unit", "hard", "spent", "soft", "reserved", "raised"]


@app.command("list")
def list_budgets(json: JsonFlag = False) -> None:
    """List limits with what is used of them today."""
    _print(call(lambda client: client.get("/org")), json)


@app.command("set")
def set_budget(
    scope: Annotated[str, typer.Argument(help="org, user, agent or run.")],
    hard: Annotated[
        float | None, typer.Argument(help="A day's limit, of a run the whole run's.")
    ] = None,
    subject: Annotated[
        str, typer.Option("--for", help="usr_… or an agent's name; * = each of them.")
    ] = "*",
    unit: Annotated[str, typer.Option(help="usd, tokens or gpu_seconds.")] = "usd",
    soft: Annotated[
        float, typer.Option(help="Share from which on a person is asked; 0 = nobody is.")
    ] = 0.8,
    remove: Annotated[bool, typer.Option("--remove", help="Take the limit away.")] = False,
    timezone: Annotated[
        str | None, typer.Option(help="Where the day begins, as Europe/Zurich.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Set a limit, or take it away."""
    if (hard is not None and remove) or (hard is None and not remove and timezone is None):
        raise BadRequestError("name the limit, or say --remove to take it away", code="usage")
    limit = {
        "scope": scope, "subject": subject, "unit": unit, "hard": hard, "soft_share": soft or None,
    }  # fmt: skip
    limits = [] if hard is None and not remove else [limit]
    body = {"limits": limits, "timezone": timezone}
    _print(call(lambda client: client.patch("/org", {"budget": body})), json)


def _print(org: dict[str, Any], json: bool) -> None:
    budgets = org["budget"]
    if json:
        print_json(budgets)
        return
    rows = [
        {**row, "soft": None if row["soft_share"] is None else row["hard"] * row["soft_share"]}
        for row in budgets["limits"]
    ]
    print_rows(rows, COLUMNS)
    console().print(f"[dim]days of {budgets['timezone']}[/]")
