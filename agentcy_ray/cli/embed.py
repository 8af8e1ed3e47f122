"""``agentcy embed``: embedding spaces, filling them, changing the model while search answers."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.embed_view import (
    describe_space,
    describe_swap,
    follow_space,
    follow_swap,
    print_spaces,
)
from agentcy_ray.cli.output import FAILED, JsonFlag, console, print_json
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError, ConflictError, NotFoundError

app = typer.Typer(
    help="Embedding spaces: status, backfill, swap, activate, rollback, check, pause, resume, "
    "cancel, drop.",
    no_args_is_help=True,
)

SPACES, SWAPS = "/rag/spaces", "/rag/swaps"
OPEN_SWAP = {"planned", "backfilling", "checking", "ready"}
FILLING = {"queued", "running", "paused"}
UNMADE = {"ready", "failed", "cancelled", "rolled_back"}
"""States of a swap in which the model is not the one that was asked for."""
SpaceArgument = Annotated[str | None, typer.Argument(help="Id of a space (`spc_…`).")]
ModelOption = Annotated[str, typer.Option("--to", help="Reference of the model, `local:…`.")]
EngineOption = Annotated[
    str, typer.Option(help="What drives the backfill: coordinator or ray-data.")
]
ShareOption = Annotated[
    float | None, typer.Option(help="Part of the time that a backfill may have the model, 0 to 1.")
]
RateOption = Annotated[float | None, typer.Option(help="Chunks a second, at most.")]
QuietOption = Annotated[
    list[str] | None,
    typer.Option(help="When nothing is embedded: 08:00-18:00, or 08:00-18:00@Europe/Vienna."),
]
FollowOption = Annotated[bool, typer.Option(help="Stay and show how far it is.")]


@app.command()
def status(
    follow: Annotated[bool, typer.Option(help="Stay until a swap has ended or waits.")] = False,
    json: JsonFlag = False,
) -> None:
    """The spaces, how far each is filled, and the newest swap."""

    async def work(client: Client) -> dict[str, Any]:
        swap = await newest_swap(client)
        if swap is not None and follow:
            swap = await follow_swap(client, swap["swap"]["id"], quiet=json)
        return {"spaces": await client.items(SPACES), "swap": swap}

    found = call(work)
    if json:
        print_json(found)
        return
    print_spaces(found["spaces"])
    if found["swap"] is not None:
        describe_swap(found["swap"])


@app.command()
def swap(
    to: ModelOption,
    engine: EngineOption = "coordinator",
    hold: Annotated[bool, typer.Option(help="Wait for `embed activate` when it is ready.")] = False,
    force: Annotated[bool, typer.Option(help="Cut over whatever the gate says.")] = False,
    min_recall: Annotated[float | None, typer.Option(help="Recall@10 that is asked for.")] = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Share of hits that both spaces must have in common.")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="vector or halfvec.")] = None,
    share: ShareOption = None,
    rate: RateOption = None,
    quiet_hours: QuietOption = None,
    follow: FollowOption = True,
    json: JsonFlag = False,
) -> None:
    """Change the model: fill a new space, compare it, cut over. Search answers all the time."""
    options = {
        "engine": engine,
        "activate": not hold,
        "force": force,
        "min_recall": min_recall,
        "min_overlap": min_overlap,
        "storage": storage,
        "backfill": bounds(share, rate, quiet_hours),
    }

    async def work(client: Client) -> dict[str, Any]:
        started = await client.post(SWAPS, {"to": to, "options": options})
        if not follow:
            return started
        return await follow_swap(client, started["swap"]["id"], quiet=json)

    show_swap(call(work), json=json)


@app.command()
def backfill(
    space: SpaceArgument = None,
    model: Annotated[
        str | None, typer.Option(help="Make a space of this model, and fill it.")
    ] = None,
    engine: EngineOption = "coordinator",
    share: ShareOption = None,
    rate: RateOption = None,
    quiet_hours: QuietOption = None,
    follow: FollowOption = True,
    json: JsonFlag = False,
) -> None:
    """Fill a space from the packages; without one, the newest that is being built."""
    given = bounds(share, rate, quiet_hours)

    async def work(client: Client) -> dict[str, Any]:
        target = space
        if model is not None:
            made = await client.post(
                SPACES, {"embedder": model, "engine": engine, "backfill": False}
            )
            target = made["space"]["id"]
        found = await one_space(client, target, {"building"}, "is being built")
        state = await client.post(
            f"{SPACES}/{found['space']['id']}/backfill", {"engine": engine, "options": given}
        )
        return await follow_space(client, state["space"]["id"], quiet=json) if follow else state

    state = call(work)
    _show_space(state, json=json)
    if (state.get("backfill") or {}).get("status") in {"failed", "cancelled"}:
        raise typer.Exit(FAILED)


@app.command()
def activate(
    space: SpaceArgument = None,
    force: Annotated[bool, typer.Option(help="Whatever the gate says.")] = False,
    json: JsonFlag = False,
) -> None:
    """Let a space answer; without one, the newest that is ready."""

    async def work(client: Client) -> dict[str, Any]:
        found = await one_space(client, space, {"ready"}, "is ready")
        return await client.post(f"{SPACES}/{found['space']['id']}/activate", {"force": force})

    _show_space(call(work), json=json)


@app.command()
def rollback(json: JsonFlag = False) -> None:
    """Let the former space answer again, at once; it was written all the time."""

    async def work(client: Client) -> dict[str, Any]:
        for swap in await client.items(SWAPS):
            if swap["status"] == "cut_over":
                return await client.post(f"{SWAPS}/{swap['id']}/rollback")
        found = await one_space(client, None, {"retired"}, "is kept to go back to")
        return await client.post(f"{SPACES}/{found['space']['id']}/activate", {})

    _show_space(call(work), json=json)


@app.command()
def check(space: SpaceArgument = None, follow: FollowOption = True, json: JsonFlag = False) -> None:
    """Recall of a space's index; without one, the whole gate of a swap that waits."""

    async def work(client: Client) -> tuple[str, dict[str, Any]]:
        swap = await newest_swap(client)
        if space is None and swap is not None and swap["swap"]["status"] == "ready":
            path = f"{SWAPS}/{swap['swap']['id']}"
            state = await client.post(f"{path}/check")
            if follow:
                state = await follow_swap(client, swap["swap"]["id"], quiet=json)
            return "swap", state
        found = await one_space(client, space, {"active"}, "answers")
        return "space", await client.post(f"{SPACES}/{found['space']['id']}/check")

    kind, state = call(work)
    if kind == "swap":
        show_swap(state, json=json)
    else:
        _show_space(state, json=json)


@app.command()
def pause(space: SpaceArgument = None, json: JsonFlag = False) -> None:
    """Hold the backfill of a space; without one, the newest that runs."""
    _control("pause", space, {"queued", "running"}, json=json)


@app.command()
def resume(
    space: SpaceArgument = None,
    share: ShareOption = None,
    rate: RateOption = None,
    quiet_hours: QuietOption = None,
    json: JsonFlag = False,
) -> None:
    """Go on with a backfill that is paused or failed, within other bounds where some are given."""
    given = bounds(share, rate, quiet_hours)
    body = {"options": given} if given else None
    _control("resume", space, {"paused", "failed"}, body, json=json)


@app.command()
def cancel(space: SpaceArgument = None, json: JsonFlag = False) -> None:
    """Call the open swap off, before its cut-over; or the backfill of a space that is named."""

    async def work(client: Client) -> dict[str, Any] | None:
        swap = await newest_swap(client)
        if space is None and swap is not None and swap["swap"]["status"] in OPEN_SWAP:
            return await client.post(f"{SWAPS}/{swap['swap']['id']}/cancel")
        return None

    state = call(work)
    if state is None:
        _control("cancel", space, FILLING, json=json)
    elif json:
        print_json(state)
    else:
        describe_swap(state)


@app.command()
def drop(
    space: Annotated[
        str, typer.Argument(help="Id of a space that does not answer and is not filled.")
    ],
    json: JsonFlag = False,
) -> None:
    """Remove a space and its vectors for good; there is no going back to it then."""

    async def work(client: Client) -> None:
        await client.delete(f"{SPACES}/{space}")

    call(work)
    if json:
        print_json({"dropped": space})
    else:
        console().print(f"{space} is dropped", markup=False)


def bounds(
    share: float | None, rate: float | None, quiet_hours: list[str] | None
) -> dict[str, Any]:
    """The bounds of a backfill as the API takes them.

    Raises:
        BadRequestError: quiet hours are not of the form ``08:00-18:00``, or a bound is no number.
    """
    given: dict[str, Any] = {"share": share, "max_chunks_per_s": rate}
    if not all(value is None or math.isfinite(value) for value in given.values()):
        raise BadRequestError("--share and --rate take a number; leave them out for no bound")
    if quiet_hours:
        given["quiet"] = [_window(text) for text in quiet_hours]
    return {name: value for name, value in given.items() if value is not None}


def _window(text: str) -> dict[str, str]:
    hours, _, zone = text.partition("@")
    start, dash, end = hours.partition("-")
    if not dash:
        raise BadRequestError(f"{text!r} are no quiet hours; write 08:00-18:00@Europe/Vienna")
    return {"start": start.strip(), "end": end.strip(), "zone": zone.strip() or "UTC"}


async def newest_swap(client: Client) -> dict[str, Any] | None:
    """The newest swap with how far it is, None when there never was one."""
    rows = (await client.get(SWAPS, limit=1))["items"]
    return await client.get(f"{SWAPS}/{rows[0]['id']}") if rows else None


async def one_space(
    client: Client, space: str | None, states: set[str], what: str
) -> dict[str, Any]:
    """The named space, or the newest in one of some states.

    Raises:
        NotFoundError: there is none.
    """
    if space is not None:
        return await client.get(f"{SPACES}/{space}")
    for state in await client.items(SPACES):
        if state["space"]["status"] in states:
            return state
    raise NotFoundError(f"no space {what}; `agentcy embed status` lists those there are")


def _control(
    verb: str, space: str | None, states: set[str], body: dict[str, Any] | None = None, *,
    json: bool,
) -> None:  # fmt: skip
    async def work(client: Client) -> dict[str, Any]:
        if space is not None:
            return await client.post(f"{SPACES}/{space}/backfill/{verb}", body)
        for state in await client.items(SPACES):
            if (state.get("backfill") or {}).get("status") in states:
                path = f"{SPACES}/{state['space']['id']}/backfill/{verb}"
                return await client.post(path, body)
        raise ConflictError(
            f"no backfill is {' or '.join(sorted(states))}; `agentcy embed status` shows them"
        )

    _show_space(call(work), json=json)


def show_swap(state: dict[str, Any], *, json: bool) -> None:
    """Print a swap; exits badly where the model is not changed and nobody asked for that."""
    if json:
        print_json(state)
    else:
        describe_swap(state)
    if state["swap"]["status"] in UNMADE and not _wanted(state):
        raise typer.Exit(FAILED)


def _wanted(state: dict[str, Any]) -> bool:
    """Whether a swap waits because that was asked for."""
    swap = state["swap"]
    return swap["status"] == "ready" and not (swap.get("gate") or {}).get("refused")


def _show_space(state: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(state)
    else:
        describe_space(state)
