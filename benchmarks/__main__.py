"""``python -m benchmarks NAME [--json FILE]``; without a name it lists them."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import pkgutil
from pathlib import Path

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.figures import Figure

PARTS = {
    "__main__", "arrow_api", "backfill_peer", "backfill_space", "backfill_victim", "figures",
    "fixtures", "governed", "http_load", "kyma_process",
    "made_model", "memory", "peers",
    "platform",
    "sse_client", "sse_controls", "stores", "bare_serve", "vector_corpus",
}  # fmt: skip


def names() -> list[str]:
    """The benchmarks that can be run."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if name not in PARTS)


def show(figures: list[Figure]) -> None:
    """A table for people."""
    table = Table(box=None, header_style="bold")
    for column in ("figure", "value", "spread", "control", "ratio", "goal", "met", "n"):
        table.add_column(column, overflow="fold")
    for figure in figures:
        control = "" if figure.control is None else f"{figure.control}: {figure.control_value:,g}"
        table.add_row(
            figure.figure, f"{figure.value:,g} {figure.unit}",
            f"{figure.spread[0]:,g} – {figure.spread[1]:,g}", control,
            "" if figure.ratio is None else f"{figure.ratio:g}", figure.goal,
            "yes" if figure.met else "NO", str(figure.n),
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"[dim]{figures[0].machine}[/]")


def main() -> int:
    """Run one benchmark; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=names())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", type=int, help="how much data, of benchmarks that can be scaled")
    options = parser.parse_args()
    if options.name is None:
        Console().print("\n".join(names()))
        return 0
    module = importlib.import_module(f"benchmarks.{options.name}")
    # On the event loop that Ray gives to replicas.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        scale = () if options.size is None else (options.size,)
        figures: list[Figure] = runner.run(module.run(*scale))
    show(figures)
    if options.json:
        options.json.write_bytes(
            orjson.dumps([figure.row() for figure in figures], option=orjson.OPT_INDENT_2)
        )
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
