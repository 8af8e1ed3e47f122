"""``agentcy password``: change yours."""

from __future__ import annotations

from typing import Annotated

import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.login import prompt
from agentcy_ray.cli.output import JsonFlag, console, print_json
from agentcy_ray.cli.session import call


def password(
    current: Annotated[str | None, typer.Option(help="The present one; unset: asked for.")] = None,
    new: Annotated[
        str | None, typer.Option(help="12 to 256 characters; unset: asked for, twice.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Change your password; your other logins end.

    A first password must be changed before the platform does anything else for you.
    """

    former = current or prompt("Current password", "--current")
    fresh = new or prompt("New password", "--new", twice=True)

    async def change(client: Client) -> None:
        await client.post("/auth/password", {"current": former, "new": fresh})

    call(change)
    if json:
        print_json({"changed": True})
    else:
        console().print("your password is changed; other logins of yours have ended")
