"""``agentcy api-keys``: what programs send instead of a login."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentcy_ray.cli.output import JsonFlag, console, notes, print_json, print_rows, scoped
from agentcy_ray.cli.session import call

app = typer.Typer(help="API keys: list, create, revoke.", no_args_is_help=True)
COLUMNS = [
    "id", "name", "active", "rpm", "realms", "expires_at", "last_used_at", "permissions",
    "user_id",
]  # fmt: skip


@app.command("list")
def list_keys(json: JsonFlag = False) -> None:
    """List the organisation's keys; their texts are kept nowhere."""
    rows = call(lambda client: client.items("/api-keys"))
    if json:
        print_json(rows)
    else:
        print_rows(map(scoped, rows), COLUMNS)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    permission: Annotated[
        list[str], typer.Option(help="What it may do, of what you may; several times.")
    ],
    realm: Annotated[
        list[str] | None, typer.Option(help="A realm to limit it to; several times.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="RFC 3339, as 2027-01-01T00:00:00Z.")
    ] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    json: JsonFlag = False,
) -> None:
    """Print a new key; it is shown this once."""
    body: dict[str, Any] = {
        "name": name, "permissions": permission, "realms": realm, "expires_at": expires, "rpm": rpm,
    }  # fmt: skip
    made = call(lambda client: client.post("/api-keys", body))
    if json:
        print_json(made)
        return
    notes().print(f"{made['id']}: {', '.join(made['permissions'])}; shown once:", markup=False)
    console().print(made["key"], markup=False)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key (key_…).")], json: JsonFlag = False
) -> None:
    """End a key; every process refuses it within 5 s."""
    call(lambda client: client.delete(f"/api-keys/{key}"))
    if json:
        print_json({"revoked": key})
    else:
        console().print(f"{key} is revoked", markup=False)
