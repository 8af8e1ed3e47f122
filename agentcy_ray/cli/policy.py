"""``agentcy policy``: what decides, trying a policy before it does, and what it would change."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import FAILED, JsonFlag, console, notes, print_json, print_rows
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import ConfigError, NotFoundError
from agentcy_ray.policy.rego_tests import run_tests

app = typer.Typer(
    help="Policies: list, show, put, enable, disable, restore, test, evaluate, replay.",
    no_args_is_help=True,
)
CHANGES = {
    "allow_to_deny": "newly denied",
    "deny_to_allow": "newly allowed",
    "newly_requires_approval": "newly needing approval",
    "no_longer_requires_approval": "no longer needing approval",
}

Name = Annotated[str, typer.Argument(help="Name or id of the policy.")]
File = Annotated[Path, typer.Argument(help="A .rego file; its name is the policy's name.")]


@app.command("list")
def list_policies(json: JsonFlag = False) -> None:
    """List policies."""
    rows = call(_all)
    if json:
        print_json(rows)
    else:
        print_rows(rows, ["id", "name", "enabled", "version", "starter"])


@app.command()
def show(name: Name, json: JsonFlag = False) -> None:
    """Print a policy."""
    policy = call(lambda client: _one(client, name))
    if json:
        print_json(policy)
    else:
        sys.stdout.write(policy["rego"])


@app.command()
def put(
    file: File,
    name: Annotated[str | None, typer.Option(help="Another name than the file's.")] = None,
    json: JsonFlag = False,
) -> None:
    """Save a policy: a new one, or a new version of the one of this name."""
    candidate = _candidate(file, name)

    async def work(client: Client) -> Any:
        for policy in await _all(client):
            if policy["name"] == candidate["name"]:
                return await client.put(f"/policies/{policy['id']}", {"rego": candidate["rego"]})
        return await client.post("/policies", candidate)

    _print(call(work), json)


@app.command()
def enable(name: Name, json: JsonFlag = False) -> None:
    """Let a policy decide."""
    _print(call(lambda client: _switch(client, name, "enable")), json)


@app.command()
def disable(name: Name, json: JsonFlag = False) -> None:
    """Keep a policy and let it decide nothing."""
    _print(call(lambda client: _switch(client, name, "disable")), json)


@app.command()
def restore(json: JsonFlag = False) -> None:
    """Bring the starter policies back as they were shipped."""
    answer = call(lambda client: client.post("/policies/restore"))
    if json:
        print_json(answer["items"])
    else:
        print_rows(answer["items"], ["id", "name", "enabled", "version"])


@app.command()
def test(
    paths: Annotated[list[Path], typer.Argument(help="Rego files, or folders of them.")],
    settings: Annotated[
        Path | None, typer.Option(help="JSON file that policies read as data.settings.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Run the rules named test_… of the files, without a server; 1 when one fails."""
    files = list(_files(paths))
    if not files:
        raise ConfigError("no .rego file there; name the policies and their tests")
    data = _json(settings) if settings else {}
    outcomes = run_tests({str(file): _read(file) for file in files}, data)
    if not outcomes:
        raise ConfigError("no rule named test_… in these files; there is nothing to run")
    if json:
        print_json([outcome.model_dump() for outcome in outcomes])
    else:
        for each in outcomes:
            verdict = "[green]passed[/]" if each.passed else "[red]FAILED[/]"
            console().print(verdict, end=" ")
            console().print(each.name, each.problem or "", markup=False)
        console().print(f"{sum(each.passed for each in outcomes)} of {len(outcomes)} passed")
    if not all(each.passed for each in outcomes):
        raise typer.Exit(FAILED)


@app.command()
def evaluate(
    input_file: Annotated[
        str, typer.Argument(metavar="INPUT", help="JSON: a question or a list; - for stdin.")
    ] = "-",
    candidate: Annotated[
        list[Path] | None, typer.Option("--with", help="Policy to try in the set; repeatable.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Ask what would be decided, and why; nothing is changed."""
    asked = _json(None if input_file == "-" else Path(input_file))
    body = {
        "inputs": asked if isinstance(asked, list) else [asked],
        "policies": [_candidate(file) for file in candidate or []],
    }
    results = call(lambda client: client.post("/policies/evaluate", body))["results"]
    if json:
        print_json(results)
        return
    for result in results:
        _explain(result)


@app.command()
def replay(
    files: Annotated[list[Path], typer.Argument(help="Policies to try in the active set.")],
    days: Annotated[int, typer.Option(min=1, help="How far back.")] = 7,
    json: JsonFlag = False,
) -> None:
    """Decide the recorded questions of the last days again, and show what would change."""
    body = {"policies": [_candidate(file) for file in files], "days": days}

    async def work(client: Client) -> Any:
        state = await client.post("/policies/replays", body)
        path = f"/policies/replays/{state['replay']['id']}"
        with notes().status("replaying …") as status:
            while state["running"]:
                progress = state["progress"] or {}
                if progress.get("total"):
                    status.update(f"replaying … {progress['done']}/{progress['total']} stretches")
                state = await client.get(path, wait_secs=20)
        return state

    state = call(work)
    result = state["replay"]["result"]
    if json:
        print_json(state)
    elif result is None:
        why = (state["error"] or {}).get("message", "see `agentcy policy replay --json`")
        notes().print(f"[red]the replay is {state['status']}[/]: ", end="")
        notes().print(why, markup=False)
    else:
        _radius(result)
    if result is None:
        raise typer.Exit(FAILED)


def _radius(result: dict[str, Any]) -> None:
    console().print(f"[bold]{result['evaluated']:,}[/] recorded questions decided again")
    for key, words in CHANGES.items():
        console().print(f"  {result[key]:>8,} {words}")
    for group in ("tool", "agent", "person"):
        rows = [
            {group: name, **{CHANGES[key]: n for key, n in changes.items() if n}}
            for name, changes in result[f"by_{group}"].items()
        ]
        if rows:
            print_rows(rows, [group, *CHANGES.values()], title=f"by {group}")
    if result["examples"]:
        columns = ["seq", "at", "change", "tool", "person", "reasons"]
        print_rows(result["examples"], columns, title="examples")


def _explain(result: dict[str, Any]) -> None:
    decision = result["decision"]
    word = "[red]deny[/]" if decision["decision"] == "deny" else "[green]allow[/]"
    if decision["requires_approval"]:
        word += " after [yellow]approval[/]"
    memory = "from memory" if decision["cached"] else f"{decision['latency_ms']:.2f} ms"
    console().print(f"{word} ({memory})")
    for fired in result["rules"]:
        for message in fired["messages"]:
            text = message if isinstance(message, str) else orjson.dumps(message).decode()
            console().print(f"  {fired['rule']} ({fired['policy']}): ", end="")
            console().print(text, markup=False)
    if not result["rules"]:
        for reason in decision["reasons"]:
            console().print(f"  {decision['rule']}: ", end="")
            console().print(reason, markup=False)
    console().print(f"  [dim]reads[/] {', '.join(result['reads']) or 'nothing'}")
    if not result["cacheable"]:
        console().print(f"  [dim]never kept, because of[/] {', '.join(result['volatile'])}")


async def _all(client: Client) -> list[dict[str, Any]]:
    return (await client.get("/policies"))["items"]


async def _one(client: Client, name: str) -> dict[str, Any]:
    for policy in await _all(client):
        if name in {policy["id"], policy["name"]}:
            return policy
    raise NotFoundError(f"no policy {name!r}; `agentcy policy list` shows those there are")


async def _switch(client: Client, name: str, verb: str) -> Any:
    policy = await _one(client, name)
    return await client.post(f"/policies/{policy['id']}/{verb}")


def _candidate(file: Path, name: str | None = None) -> dict[str, Any]:
    return {"name": name or file.name, "rego": _read(file)}


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.rego"))
        else:
            yield path


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ConfigError(f"cannot read {file}: {why}; name a .rego or .json file") from error


def _json(file: Path | None) -> Any:
    text = sys.stdin.read() if file is None else _read(file)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{file or 'standard input'} is no JSON: {error}") from error


def _print(policy: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(policy)
        return
    state = "decides" if policy["enabled"] else "is off"
    console().print(f"{policy['name']} version {policy['version']} [bold]{state}[/]")
