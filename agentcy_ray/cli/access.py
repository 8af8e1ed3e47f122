"""``agentcy access``: what people and agents miss, and an administrator's answer."""

from __future__ import annotations

from typing import Annotated

import typer

from agentcy_ray.cli.output import JsonFlag, console, print_json, print_rows
from agentcy_ray.cli.session import call

app = typer.Typer(help="Access requests: list, ask, grant, refuse.", no_args_is_help=True)

Wanted = Annotated[str, typer.Argument(help="Id of the request (acc_…).")]
Note = Annotated[str | None, typer.Option(help="Why; kept with the decision.")]


@app.command("list")
def list_requests(
    status: Annotated[str, typer.Option(help="pending, granted or refused.")] = "pending",
    json: JsonFlag = False,
) -> None:
    """List requests."""
    rows = call(lambda client: client.items("/access-requests", status=status))
    if json:
        print_json(rows)
    else:
        print_rows(rows, ["id", "connector", "status", "created_at", "reason"])


@app.command()
def ask(
    connector: Annotated[str, typer.Argument(help="What is missing, for example jira.")],
    reason: Annotated[str, typer.Argument(help="What it is needed for.")],
    json: JsonFlag = False,
) -> None:
    """Ask an administrator to connect something."""
    body = {"connector": connector, "reason": reason}
    found = call(lambda client: client.post("/access-requests", body))
    if json:
        print_json(found)
    else:
        console().print(f"{found['id']}: {found['status']}", markup=False)


@app.command()
def grant(wanted: Wanted, note: Note = None, json: JsonFlag = False) -> None:
    """Say that it will be connected; connect it with `agentcy sources add`."""
    _decide(wanted, "granted", note, json)


@app.command()
def refuse(wanted: Wanted, note: Note = None, json: JsonFlag = False) -> None:
    """Say that it will not be connected."""
    _decide(wanted, "refused", note, json)


def _decide(wanted: str, status: str, note: str | None, json: bool) -> None:
    body = {"status": status, "note": note}
    found = call(lambda client: client.post(f"/access-requests/{wanted}", body))
    if json:
        print_json(found)
    else:
        console().print(f"{found['id']}: {found['status']}", markup=False)
