"""How spaces, backfills and swaps look in a terminal."""

from __future__ import annotations

from typing import Any

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import console, print_rows
from agentcy_ray.cli.progress import Seen, follow, numbers

STOPPED = {"ready", "cut_over", "done", "rolled_back", "failed", "cancelled"}
"""States of a swap in which nothing happens by itself."""
UNDER_WAY = {"queued", "running", "paused"}
"""States of a backfill of which it is worth saying what is done or waited for."""


async def follow_swap(client: Client, swap_id: str, *, quiet: bool) -> dict[str, Any]:
    """Follow a swap until it is cut over, waits or has ended, across outages."""

    async def look() -> dict[str, Any]:
        return await client.get(f"/rag/swaps/{swap_id}")

    def shown(state: dict[str, Any]) -> Seen:
        status = state["swap"]["status"]
        ended = verdict(state["swap"]) if status in STOPPED else None
        return status, state.get("progress") or {}, ended

    return await follow(look, shown, quiet=quiet)


async def follow_space(client: Client, space_id: str, *, quiet: bool) -> dict[str, Any]:
    """Follow the backfill of a space to its end, across outages."""

    async def look() -> dict[str, Any]:
        return await client.get(f"/rag/spaces/{space_id}")

    def shown(state: dict[str, Any]) -> Seen:
        backfill = state["backfill"] or {}
        status = backfill.get("status", "done")
        progress = filling(state.get("progress") or {})
        if status not in {"done", "failed", "cancelled"}:
            return status, progress, None
        error = (backfill.get("error") or {}).get("message")
        return status, progress, error or numbers(progress)

    return await follow(look, shown, quiet=quiet)


def filling(progress: dict[str, Any]) -> dict[str, Any]:
    """The progress of a backfill in the form of every bar."""
    phase = progress.get("phase") or progress.get("status", "")
    return {
        **progress,
        "rate": progress.get("chunks_per_s"),
        "note": progress.get("note") or phase,
    }


def verdict(swap: dict[str, Any]) -> str:
    """What a swap came to: its figures, and why it waits or failed."""
    parts: list[str] = []
    if error := swap.get("error"):
        parts.append(str(error.get("message", error)))
    if gate := swap.get("gate"):
        recall, overlap, coverage = gate["recall"], gate["overlap"], gate["coverage"]
        parts.append(
            f"recall@10 {recall['mean']:.3f} (asked for {recall['floor']:g}, "
            f"{recall['sampled']} vectors)"
        )
        parts.append(
            f"overlap {overlap['mean']:.3f} (asked for {overlap['floor']:g}, "
            f"{overlap['asked']} queries of people and {overlap['made']} names)"
        )
        parts.append(f"{coverage['live']:,} chunks, {coverage['mended']:,} mended")
    if swap.get("reason"):
        parts.append(f"waits: {swap['reason']}")
    return " · ".join(parts)


def print_spaces(states: list[dict[str, Any]]) -> None:
    """A table of spaces."""
    rows: list[dict[str, Any]] = []
    for state in states:
        space, progress = state["space"], filling(state.get("progress") or {})
        unfinished = (state.get("backfill") or {}).get("status") not in {None, "done"}
        rows.append({
            "space": space["id"],
            "model": space["embedder"],
            "dim": space["dim"],
            "storage": space["storage"],
            "status": space["status"],
            "recall": (space.get("recall") or {}).get("mean"),
            "backfill": _standing(progress) if unfinished else "",
            "kept_until": space.get("drop_after"),
        })  # fmt: skip
    print_rows(
        rows, ["space", "model", "status", "dim", "recall", "storage", "backfill", "kept_until"]
    )


def _standing(progress: dict[str, Any]) -> str:
    """``paused: 1,200/5,000 chunks · paused by request``."""
    shown = f"{progress['status']}: {numbers(progress)}"
    return f"{shown} · {progress['note']}" if progress["status"] in UNDER_WAY else shown


def describe_space(state: dict[str, Any]) -> None:
    """One space in some lines."""
    space, progress = state["space"], state.get("progress")
    shown = console()
    shown.print(
        f"{space['id']} {space['embedder']} ({space['dim']} × {space['storage']}): "
        f"[bold]{space['status']}[/]",
        highlight=False,
    )
    if recall := space.get("recall"):
        shown.print(
            f"recall@10 {recall['mean']:.3f}, worst {recall['worst']:.3f}, over "
            f"{recall['sampled']} vectors at ef_search {recall['ef_search']}",
            highlight=False,
        )
    if progress:
        line = f"backfill {_standing(filling(progress))}"
        if progress.get("errors"):
            line += f" · {progress['errors']:,} texts refused"
        if progress.get("cost_usd"):
            line += f" · ${progress['cost_usd']:,.4f}"
        shown.print(line, markup=False, highlight=False)
    for error in (space.get("error"), (state.get("backfill") or {}).get("error")):
        if error:
            shown.print(str(error.get("message", error)), markup=False, highlight=False)
    if space.get("drop_after"):
        shown.print(f"kept, and written, until {space['drop_after']}", highlight=False)


def describe_swap(state: dict[str, Any]) -> None:
    """One swap in some lines."""
    swap = state["swap"]
    shown = console()
    shown.print(f"{swap['id']} to {swap['model']}: [bold]{swap['status']}[/]", highlight=False)
    progress = state.get("progress") or {}
    for line in (
        " · ".join(filter(None, [numbers(progress), progress.get("note")])),
        verdict(swap),
    ):
        if line:
            shown.print(line, markup=False, highlight=False)
    if swap["status"] == "ready":
        shown.print(
            "`agentcy embed activate` cuts over, `agentcy embed check` compares again, "
            "`agentcy embed cancel` gives it up",
            highlight=False,
        )
    elif swap["status"] == "cut_over":
        shown.print("`agentcy embed rollback` goes back", highlight=False)
