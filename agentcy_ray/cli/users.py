"""``agentcy users``: who is in the organisation, and what they may do."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentcy_ray.cli.output import (
    JsonFlag,
    console,
    print_json,
    print_record,
    print_rows,
    scoped,
)
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError

app = typer.Typer(help="Users: list, show, change, remove.", no_args_is_help=True)
COLUMNS = ["id", "email", "role", "active", "realms", "last_login_at", "permissions"]

Who = Annotated[str, typer.Argument(help="Id of the user (usr_…).")]


@app.command("list")
def list_users(json: JsonFlag = False) -> None:
    """List the organisation's users."""
    rows = call(lambda client: client.items("/users"))
    if json:
        print_json(rows)
    else:
        print_rows(map(scoped, rows), COLUMNS)


@app.command()
def show(who: Who, json: JsonFlag = False) -> None:
    """Show one user."""
    _print(call(lambda client: client.get(f"/users/{who}")), json)


@app.command()
def change(
    who: Who,
    role: Annotated[str | None, typer.Option(help="owner, admin, member or viewer.")] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option(help="A direct grant; several times. Replaces those there are; '' = none."),
    ] = None,
    realm: Annotated[
        list[str] | None,
        typer.Option(help="A realm to limit the user to; several times. '*' = every realm."),
    ] = None,
    active: Annotated[
        bool | None,
        typer.Option("--active/--inactive", help="Whether they may log in."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Change a user; what is not given stays. Deactivation ends logins and API keys."""
    body: dict[str, Any] = {}
    if role is not None:
        body["role"] = role
    if permission is not None:
        body["permissions"] = [name for name in permission if name]
    if realm is not None:
        body["realms"] = None if "*" in realm else [name for name in realm if name]
    if active is not None:
        body["active"] = active
    if not body:
        raise BadRequestError("say what to change; see `agentcy users change --help`", code="usage")
    _print(call(lambda client: client.patch(f"/users/{who}", body)), json)


@app.command()
def remove(who: Who, json: JsonFlag = False) -> None:
    """Delete a user with their conversations, API keys and invites."""
    call(lambda client: client.delete(f"/users/{who}"))
    if json:
        print_json({"removed": who})
    else:
        console().print(f"{who} is gone", markup=False)


def _print(user: dict[str, Any], json: bool) -> None:
    if json:
        print_json(user)
    else:
        print_record({name: scoped(user)[name] for name in COLUMNS})
