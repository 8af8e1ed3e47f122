"""``agentcy chat`` and ``agentcy runs``: ask, and watch what happens."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.event_stream import ServerEvent
from agentcy_ray.cli.output import (
    FAILED,
    JsonFlag,
    cell,
    console,
    harmless,
    notes,
    print_json,
    print_record,
    print_rows,
)
from agentcy_ray.cli.session import call

runs = typer.Typer(help="Runs: list, show, follow, cancel.", no_args_is_help=True)
Run = Annotated[str, typer.Argument(help="Id of the run (run_…).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("chat")(chat)
    app.add_typer(runs, name="runs")


def chat(
    text: Annotated[str | None, typer.Argument(help="The question; none = a conversation.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Go on in this one (cnv_…).")] = None,
    agent: Annotated[str | None, typer.Option(help="Agent to ask.")] = None,
    model: Annotated[str | None, typer.Option(help="provider:model for this message.")] = None,
    realm: Annotated[str | None, typer.Option(help="Realm to stay in.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve what the agent asks for.")] = False,
    json: JsonFlag = False,
) -> None:
    """Ask an agent; the answer streams, approvals are asked for in the terminal."""

    async def work(client: Client) -> list[dict[str, Any]]:
        cnv = conversation or await start(client, text or "chat", agent, realm)
        events: list[dict[str, Any]] = []
        question = text
        while question is not None or text is None:
            if question is None:
                question = _question()
                if question in {"", "exit", "quit"}:
                    break
            body = {"content": question} | ({"model": model} if model else {})
            events += await show(client, client.ask(cnv, body), yes=yes, quiet=json)
            question = None
            if text is not None:
                break
        return events

    events = call(work)
    if json:
        print_json({"events": events})
    if events and events[-1]["type"] == "error":
        raise typer.Exit(FAILED)


def _question() -> str:
    """The next line of the person at the terminal; "" when there is none any more."""
    try:
        with _interruptible():
            return notes().input("[bold]you ›[/] ").strip()
    except EOFError:
        return ""


@contextmanager
def _interruptible() -> Generator[None]:
    """Let Ctrl-C end a question to the person: the event loop would wait for the answer first."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def start(client: Client, title: str, agent: str | None, realm: str | None) -> str:
    """A new conversation; returns its id."""
    body = {"title": title[:80], "agent": agent, "realm": realm}
    answer = await client.post(
        "/chat/conversations", {k: v for k, v in body.items() if v is not None}
    )
    return str(answer["id"])


async def show(
    client: Client, events: AsyncIterator[ServerEvent], *, yes: bool, quiet: bool
) -> list[dict[str, Any]]:
    """Print a run as it happens, asking for approvals on the way; returns its events."""
    out, seen = console(), list[dict[str, Any]]()
    citations: dict[str, dict[str, Any]] = {}
    async for event in events:
        seen.append({"seq": event.id, "type": event.type, "data": event.data})
        if event.type == "approval_required":
            await decide(client, event.data, yes=yes, quiet=quiet)
        elif event.type == "citation":
            citations[event.data["key"]] = event.data
        if not quiet:
            _print_event(out, event)
    if not quiet and citations:
        out.print()
        for key, found in citations.items():
            source = f"  [{key}] {cell(found.get('title'))} {cell(found.get('url'))}"
            out.print(harmless(source), style="dim", markup=False)
    return seen


def _print_event(out: Console, event: ServerEvent) -> None:
    data = event.data
    match event.type:
        case "content_delta":
            out.print(harmless(data["delta"]), end="", markup=False)
        case "thinking_delta":
            out.print(harmless(data["delta"]), end="", style="dim", markup=False)
        case "tool_call_start":
            tool = data.get("tool") or data["name"]
            out.print(f"\n→ {data.get('connector') or ''} {tool}", style="cyan", markup=False)
        case "tool_result":
            note = data["status"] if data.get("error") is None else data["error"]["message"]
            out.print(harmless(f"← {note}"), style="cyan", markup=False)
        case "approval_resolved":
            out.print(f"[magenta]approval {data['status']}[/]")
        case "warning" | "error":
            out.print(harmless(f"\n{data['message']}"), style="yellow", markup=False)
        case "message_end":
            usage = data.get("usage") or {}
            out.print(
                f"\n[dim]{data['finish_reason']} · {usage.get('in_tokens', 0)} tokens in, "
                f"{usage.get('out_tokens', 0)} out[/]"
            )
        case _:
            return


async def decide(client: Client, data: dict[str, Any], *, yes: bool, quiet: bool) -> None:
    """Ask the person at the terminal; without one the approval waits for another channel."""
    terminal = notes()
    if not quiet:
        terminal.print(
            f"\n[bold magenta]approval needed[/] {data['connector']}.{data['tool']} "
            f"([bold]{data['effect']}[/]): {escape('; '.join(data.get('reasons') or []))}"
        )
        terminal.print_json(orjson.dumps(data.get("args") or {}).decode())
    if yes:
        approved = True
        terminal.print("[dim]approved by --yes[/]") if not quiet else None
    elif quiet or not terminal.is_terminal:
        terminal.print(f"decide with: agentcy approvals approve {data['approval_id']}")
        return
    else:
        with _interruptible():
            approved = typer.confirm("let it happen?", err=True)
    await client.post(f"/approvals/{data['approval_id']}", {"approved": approved, "via": "cli"})


@runs.command("list")
def list_runs(json: JsonFlag = False) -> None:
    """Runs, newest first."""
    rows = call(lambda client: client.items("/runs"))
    if json:
        print_json(rows)
    else:
        print_rows(rows, ["id", "status", "created_at", "agent", "model", "finish_reason"])


@runs.command("show")
def show_run(run: Run, json: JsonFlag = False) -> None:
    """One run with its usage."""
    answer = call(lambda client: client.get(f"/runs/{run}"))
    if json:
        print_json(answer)
    else:
        print_record({name: value for name, value in answer.items() if name != "principal"})


@runs.command()
def follow(
    run: Run,
    after: Annotated[int, typer.Option(help="Only events after this seq.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Approve what the agent asks for.")] = False,
    json: JsonFlag = False,
) -> None:
    """The run's events, from the log and then live."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return await show(client, client.follow(run, after), yes=yes, quiet=json)

    events = call(work)
    if json:
        print_json({"events": events})


@runs.command()
def cancel(run: Run, json: JsonFlag = False) -> None:
    """Ask the run to stop."""
    answer = call(lambda client: client.post(f"/runs/{run}/cancel"))
    if json:
        print_json(answer)
    else:
        console().print(f"{run} is asked to stop")
