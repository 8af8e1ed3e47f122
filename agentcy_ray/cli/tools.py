"""``agentcy tools``: what agents can do, and calling it through the same gates."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import (
    FAILED,
    REFUSED,
    JsonFlag,
    console,
    notes,
    print_json,
    print_rows,
)
from agentcy_ray.cli.patience import until
from agentcy_ray.cli.session import call as with_client
from agentcy_ray.core.errors import BadRequestError

app = typer.Typer(help="Tools: list, search, call.", no_args_is_help=True)
OPEN = {"routed", "waiting_approval", "dispatched", "pending_approval"}


@app.command("list")
def list_tools(json: JsonFlag = False) -> None:
    """Tools of all enabled sources, and the built-in ones."""
    rows = with_client(lambda client: client.items("/catalog/tools"))
    _show(rows, json)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What the tool should do.")],
    top_k: Annotated[int, typer.Option(help="Number of tools.")] = 8,
    json: JsonFlag = False,
) -> None:
    """Find tools by meaning."""
    answer = with_client(lambda client: client.get("/catalog/search", q=text, top_k=top_k))
    _show(answer["tools"], json)


@app.command()
def call(
    tool: Annotated[str, typer.Argument(help="connector.tool, for example git.log.")],
    args: Annotated[str, typer.Argument(help="Arguments as a JSON object.")] = "{}",
    source: Annotated[str | None, typer.Option(help="Source, when several offer it.")] = None,
    json: JsonFlag = False,
) -> None:
    """Call a tool through policy, approval and audit; waits while a person decides."""
    connector, _, name = tool.partition(".")
    body: dict[str, Any] = {"connector": connector, "tool": name, "args": _object(args)}
    if source:
        body["source"] = source

    async def work(client: Client) -> Any:
        conversation = await client.post("/chat/conversations", {"title": f"tool call {tool}"})
        path = f"/chat/conversations/{conversation['id']}/tool-calls"
        answer = await client.post(path, body)
        if answer["status"] == "pending_approval" and not json:
            notes().print(f"waits for approval: agentcy approvals approve {answer['approval_id']}")
        return await ended(client, path, answer)

    answer = with_client(work)
    if json:
        print_json(answer)
    elif answer["status"] == "completed":
        print_json(answer.get("result"))
    else:
        error = answer.get("error") or {}
        console().print(f"[red]{answer['status']}[/]: ", end="")
        console().print(error.get("message", ""), markup=False)
    if answer["status"] != "completed":
        raise typer.Exit(REFUSED if answer["status"] == "denied" else FAILED)


async def ended(client: Client, path: str, answer: dict[str, Any]) -> dict[str, Any]:
    """A tool call once it has ended; ``answer`` is the last that was heard of it."""
    if answer["status"] not in OPEN:
        return answer

    async def look() -> dict[str, Any] | None:
        now: dict[str, Any] = await client.get(f"{path}/{answer['tool_call_id']}")
        return None if now["status"] in OPEN else now

    return await until(look)


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ["name", "source", "effect", "requires_approval", "description"])


def _object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the arguments are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequestError("the arguments must be a JSON object")
    return value
