"""``agentcy approvals``: what waits for a person."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentcy_ray.cli.output import JsonFlag, console, print_json, print_record, print_rows
from agentcy_ray.cli.session import call

app = typer.Typer(help="Approvals: list, show, approve, deny.", no_args_is_help=True)

Approval = Annotated[str, typer.Argument(help="Id of the approval (apr_…).")]
Note = Annotated[str | None, typer.Option(help="Why; kept with the decision.")]


@app.command("list")
def list_approvals(
    status: Annotated[str, typer.Option(help="pending, approved, denied, …")] = "pending",
    json: JsonFlag = False,
) -> None:
    """List approvals."""
    rows = call(lambda client: client.items("/approvals", status=status))
    if json:
        print_json(rows)
        return
    for row in rows:
        row["call"] = f"{row['connector']}.{row['tool']}"
        row["approvals"] = _tally(row)
    columns = ["id", "call", "effect", "status", "approvals", "expires_at", "reasons", "args"]
    print_rows(rows, columns, brief=True)


@app.command()
def show(approval: Approval, json: JsonFlag = False) -> None:
    """Show one approval with the votes given so far."""
    found = call(lambda client: client.get(f"/approvals/{approval}"))
    if json:
        print_json(found)
        return
    votes = found.pop("votes")
    print_record(found)
    if votes:
        print_rows(votes, ["by", "approved", "via", "note", "at"], title="votes")


@app.command()
def approve(approval: Approval, note: Note = None, json: JsonFlag = False) -> None:
    """Let the call go ahead, once."""
    _decide(approval, True, note, json)


@app.command()
def deny(approval: Approval, note: Note = None, json: JsonFlag = False) -> None:
    """Refuse the call; the agent is told why."""
    _decide(approval, False, note, json)


def _decide(approval: str, approved: bool, note: str | None, as_json: bool) -> None:
    body: dict[str, Any] = {"approved": approved, "via": "cli"}
    if note:
        body["note"] = note
    answer = call(lambda client: client.post(f"/approvals/{approval}", body))
    if as_json:
        print_json(answer)
    else:
        tally = f", approvals: {_tally(answer)}" if answer["status"] == "pending" else ""
        console().print(f"{answer['id']} is [bold]{answer['status']}[/]{tally}")


def _tally(approval: dict[str, Any]) -> str:
    """How many have approved, of how many."""
    given = sum(vote["approved"] for vote in approval["votes"])
    return f"{given} of {approval['quorum']}"
