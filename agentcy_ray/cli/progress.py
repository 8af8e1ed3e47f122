"""Live progress in the terminal: of a sync run, and of whatever counts."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from agentcy_ray.cli.output import cell, notes
from agentcy_ray.cli.patience import until

STYLES = {
    "synced": "green", "done": "green", "cut_over": "green", "active": "green", "ready": "yellow",
    "rolled_back": "yellow", "cancelled": "yellow", "failed": "red",
}  # fmt: skip
"""Of states in which nothing more happens by itself."""
_ENDS_OF_SYNC = {"synced", "failed", "cancelled"}

State = dict[str, Any]
Seen = tuple[str, dict[str, Any], str | None]
"""Status, progress, and what it came to once it has ended."""


class SyncView:
    """A progress bar that is fed with sync runs as the API answers them."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress = _progress(quiet=quiet)
        self._task: TaskID | None = None

    def __enter__(self) -> SyncView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, run: dict[str, Any]) -> None:
        """Draw what the run says of itself."""
        if self._task is None:
            self._task = self._progress.add_task(run["status"], total=None, numbers="")
        status, progress = run["status"], run.get("progress") or {}
        ended = summary(run) if status in _ENDS_OF_SYNC else None
        _draw(self._progress, self._task, (status, progress, ended))


async def follow(
    look: Callable[[], Awaitable[State]], shown: Callable[[State], Seen], *, quiet: bool
) -> State:
    """Look at something across outages until it has ended, drawing how far it is.

    Args:
        look: asks the server.
        shown: what of an answer is drawn; it ends with the first that came to something.
        quiet: draw nothing.
    """
    with _progress(quiet=quiet) as progress:
        task = progress.add_task("waiting", total=None, numbers="")

        async def once() -> State | None:
            state = await look()
            seen = shown(state)
            _draw(progress, task, seen)
            return None if seen[2] is None else state

        return await until(once)


def numbers(progress: dict[str, Any]) -> str:
    """``1,200/5,000 entities · 830/s · 5 s left``."""
    if not progress:
        return ""
    total = progress.get("total")
    parts = [f"{progress.get('done', 0):,}" + (f"/{total:,}" if total else "")]
    parts[0] += f" {progress.get('unit', '')}"
    if progress.get("rate"):
        parts.append(f"{progress['rate']:,.0f}/s")
    if progress.get("eta_secs") is not None:
        parts.append(f"{progress['eta_secs']:,.0f} s left")
    return " · ".join(parts)


def summary(run: dict[str, Any]) -> str:
    """What an ended run changed, or why it failed."""
    if run.get("error"):
        return str(run["error"].get("message", run["error"]))
    counts = run.get("counts") or {}
    parts: list[str] = []
    for kind in ("nodes", "edges"):
        entry = counts.get(kind)
        if isinstance(entry, dict):
            changed = [f"{n:,} {verb}" for verb, n in entry.items() if n]
            parts.append(f"{kind}: {', '.join(changed) or 'none'}")
    if counts.get("embedded"):
        parts.append(f"{counts['embedded']:,} chunks embedded")
    return " · ".join(parts) or cell(counts)


@contextmanager
def bar(
    what: str, *, unit: str, total: int | None = None, quiet: bool = False
) -> Generator[Callable[[int], None]]:
    """A bar for one piece of work; yields what is to be told how much is done.

    Args:
        what: label.
        unit: of what is counted.
        total: how much there is, None while nobody knows.
        quiet: draw nothing.
    """
    progress = _progress(quiet=quiet, transient=True)
    began = time.monotonic()
    with progress:
        task = progress.add_task(what, total=total, numbers="")

        def told(done: int) -> None:
            rate = done / max(0.001, time.monotonic() - began)
            left = None if total is None else (total - done) / max(1.0, rate)
            shown = {"done": done, "total": total, "unit": unit, "rate": rate, "eta_secs": left}
            progress.update(task, completed=done, numbers=numbers(shown))

        yield told


def _progress(*, quiet: bool, transient: bool = False) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}[/]"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[numbers]}", markup=False),
        TimeElapsedColumn(),
        console=notes(),
        disable=quiet,
        transient=transient,
    )


def _draw(progress: Progress, task: TaskID, seen: Seen) -> None:
    status, state, ended = seen
    style = STYLES.get(status)
    progress.update(
        task,
        description=f"[{style}]{status}[/]" if style else escape(state.get("note") or status),
        completed=1 if ended is not None else state.get("done", 0),
        total=1 if ended is not None else state.get("total"),
        numbers=numbers(state) if ended is None else ended,
    )
