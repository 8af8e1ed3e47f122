"""``agentcy invites``: links by which people join."""

from __future__ import annotations

from typing import Annotated

import typer

from agentcy_ray.cli.output import JsonFlag, console, notes, print_json, print_rows, scoped
from agentcy_ray.cli.session import call

app = typer.Typer(help="Invites: list, create, revoke.", no_args_is_help=True)
COLUMNS = ["id", "email", "role", "realms", "expires_at", "accepted_at"]


@app.command("list")
def list_invites(json: JsonFlag = False) -> None:
    """List invites, used and expired ones too."""
    rows = call(lambda client: client.items("/org/invites"))
    if json:
        print_json(rows)
    else:
        print_rows(map(scoped, rows), COLUMNS)


@app.command()
def create(
    email: Annotated[str, typer.Argument(help="Of the person; the link works for no other.")],
    role: Annotated[str, typer.Option(help="owner, admin, member or viewer.")] = "member",
    json: JsonFlag = False,
) -> None:
    """Print a link that lets one person in, once, within 7 days."""
    body = {"email": email, "role": role}
    made = call(lambda client: client.post("/org/invites", body))
    if json:
        print_json(made)
        return
    notes().print(f"{made['id']}: {role}, until {made['expires_at']}; shown once:", markup=False)
    console().print(made["link"], markup=False)


@app.command()
def revoke(
    invite: Annotated[str, typer.Argument(help="Id of the invite (inv_…).")],
    json: JsonFlag = False,
) -> None:
    """End an invite; who has joined by it stays."""
    call(lambda client: client.delete(f"/org/invites/{invite}"))
    if json:
        print_json({"revoked": invite})
    else:
        console().print(f"{invite} is revoked", markup=False)
