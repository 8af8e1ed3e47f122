"""``agentcy doctor`` and ``agentcy config``: is this machine fit, and why is a setting so."""

from __future__ import annotations

import asyncio

import typer

from agentcy_ray.cli.output import FAILED, JsonFlag, notes, print_json, print_rows
from agentcy_ray.core.settings import Settings, explain, unclaimed
from agentcy_ray.retrieval.embedder_check import embedder_check
from agentcy_ray.runtime.cluster_config import load_cluster_config
from agentcy_ray.runtime.model_fitness import doctor_checks
from agentcy_ray.stores.checks import check_all

config = typer.Typer(help="Settings: explain, check.", no_args_is_help=True)


def doctor(json: JsonFlag = False) -> None:
    """What runs, which versions and extensions, and what to fix."""
    settings = Settings.load()
    models = load_cluster_config(settings.agentcy_cluster_config).models
    served = [model.name for model in models if model.task == "embed"]
    checks = [
        *asyncio.run(check_all(settings)),
        embedder_check(settings, served),
        *doctor_checks(models),
    ]
    rows = [
        {
            "check": check.name,
            "state": "ok" if check.ok else "warn" if check.advisory else "FIX",
            "found": check.found,
            "needed": check.needed,
            "remedy": "" if check.ok else check.remedy,
        }
        for check in checks
    ]
    if json:
        print_json(rows)
    else:
        print_rows(rows, ["check", "state", "found", "needed", "remedy"])
    if not all(check.ok or check.advisory for check in checks):
        raise typer.Exit(FAILED)


@config.command("explain")
def explain_settings(json: JsonFlag = False) -> None:
    """Every setting with value, origin and meaning; secrets masked."""
    rows = explain(Settings.load())
    if json:
        print_json(rows)
    else:
        print_rows(rows, ["name", "value", "origin", "meaning"])


@config.command("check")
def check_settings(json: JsonFlag = False) -> None:
    """Read all settings; faults are listed together."""
    Settings.load()
    warnings = unclaimed()
    if json:
        print_json({"ok": True, "warnings": warnings})
        return
    notes().print("[green]settings are fine[/]")
    for warning in warnings:
        notes().print(f"[yellow]{warning}[/]")
