"""``agentcy bench``: run one of the project's benchmarks."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import orjson
import typer

from agentcy_ray.cli.output import FAILED, JsonFlag, print_json
from agentcy_ray.core.errors import BackendError, BadRequestError, ConfigError


def bench(
    name: Annotated[str | None, typer.Argument(help="Benchmark; none lists them.")] = None,
    json: JsonFlag = False,
) -> None:
    """Run one benchmark; its control is measured in the same run."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks" / "__main__.py").exists():
        raise ConfigError("benchmarks come with the repository, not with the package; clone it")
    if name and not (root / "benchmarks" / f"{name}.py").exists():
        raise BadRequestError(f"no benchmark {name!r}; `agentcy bench` lists them", code="usage")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks", *([name] if name else [])]
        if json and name:
            command += ["--json", str(file)]
        # Its table is not for standard output then, but what it complains of stays to be seen.
        out = subprocess.PIPE if json else None
        result = subprocess.run(command, cwd=root, stdout=out, text=True, check=False)
        if name and json and not file.exists():
            raise BackendError(f"{name} has no figures; what it said last is above", code="failed")
        if json:
            names = result.stdout.split() if name is None else []
            figures = orjson.loads(file.read_bytes()) if name else []
            print_json({"figures": figures} if name else {"benchmarks": names})
    if result.returncode:
        raise typer.Exit(FAILED)
