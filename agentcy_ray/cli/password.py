"""``agentcy password``: change yours."""

from __future__ import annotations

from typing import Annotated

import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import JsonFlag, console, print_json
from agentcy_ray.cli.session import call


def password(
    current: Annotated[str, typer.Option(prompt=True, hide_input=True, help="The present one.")],
    new: Annotated[
        str,
        typer.Option(
            prompt=True, hide_input=True, confirmation_prompt=True, help="12 to 256 characters."
        ),
    ],
    json: JsonFlag = False,
) -> None:
    """Change your password; your other logins end.

    A first password must be changed before the platform does anything else for you.
    """

    async def change(client: Client) -> None:
        await client.post("/auth/password", {"current": current, "new": new})

    call(change)
    if json:
        print_json({"changed": True})
    else:
        console().print("your password is changed; other logins of yours have ended")
