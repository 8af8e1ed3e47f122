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

import benchmarks
from agentcy_ray.cli.output import print_rows
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
    rows = [
        {
            "figure": figure.figure,
            "value": f"{figure.value:,g} {figure.unit}",
            "spread": f"{figure.spread[0]:,g} – {figure.spread[1]:,g}",
            "ratio": None if figure.ratio is None else f"{figure.ratio:g}",
            "met": "yes" if figure.met else "NO",
            "n": figure.n,
            "control": figure.control and f"{figure.control}: {figure.control_value:,g}",
            "goal": figure.goal,
        }
        for figure in figures
    ]
    print_rows(rows, list(rows[0]))
    Console().print(f"[dim]{figures[0].machine}[/]")


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
