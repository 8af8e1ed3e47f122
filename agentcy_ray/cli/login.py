"""``agentcy login`` and ``agentcy whoami``: as whom the next commands run."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import JsonFlag, console, print_json, print_record
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError


def login(
    email: Annotated[str | None, typer.Option(help="Whose account; unset: asked for.")] = None,
    password: Annotated[str | None, typer.Option(help="Its password; unset: asked for.")] = None,
    org: Annotated[
        str | None, typer.Option(help="Short name, for an e-mail that several have.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Log in at AGENTCY_URL and keep the login for the next commands.

    Programs set AGENTCY_API_KEY instead.
    """

    who = email or prompt("E-mail", "--email", hidden=False)
    secret = password or prompt("Password", "--password")

    async def enter(client: Client) -> dict[str, Any]:
        await client.login(who, secret, org)
        return await client.get("/auth/me")

    _print(call(enter), json)


def prompt(what: str, option: str, *, hidden: bool = True, twice: bool = False) -> str:
    """Ask the person at the terminal, else read a line; standard output is for results.

    Raises:
        BadRequestError: nobody answers; the message names the option.
    """
    if sys.stdin.isatty():
        return typer.prompt(what, hide_input=hidden, confirmation_prompt=twice, err=True)
    if line := sys.stdin.readline().rstrip("\n"):
        return line
    raise BadRequestError(f"there is no terminal to ask at; give {option}", code="usage")


def whoami(json: JsonFlag = False) -> None:
    """Show as whom commands run, and what that one may do."""
    _print(call(lambda client: client.get("/auth/me")), json)


def _print(me: dict[str, Any], json: bool) -> None:
    if json:
        print_json(me)
        return
    realms = "every realm" if me["realms"] is None else ", ".join(me["realms"]) or "no realm"
    line = f"{me['user']['email']}, {me['role']} of {me['org']['name']}, {realms}"
    console().print(line, markup=False)
    print_record({"may": me["permissions"]})
