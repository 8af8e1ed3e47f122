"""Rules of the house that a machine can check."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted((ROOT / "agentcy_ray").rglob("*.py"))


@pytest.mark.requirement("CLU-07", "DEP-06")
def test_rooms_import_only_from_floors_below_and_only_two_import_ray() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--config", "pyproject.toml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in [*CODE, *(ROOT / "benchmarks").glob("*.py")]
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_the_environment_is_read_in_one_place() -> None:
    reader = ROOT / "agentcy_ray" / "core" / "settings.py"
    readers = [p for p in CODE if re.search(r"os\.(environ|getenv)", p.read_text()) and p != reader]
    assert not readers


@pytest.mark.requirement("DEP-02")
def test_the_top_level_is_as_planned() -> None:
    for name in ("pyproject.toml", "agentcy_ray", "deployments", "cluster", "tests", "benchmarks",
                 "README.md"):  # fmt: skip
        assert (ROOT / name).exists(), name


@pytest.mark.requirement("DEP-01")
def test_the_declared_dependencies_hold_what_the_platform_is_built_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = " ".join([*project["dependencies"], *(name for extra in extras for name in extra)])
    for name in ("ray[serve", "asyncpg", "pgvector", "neo4j", "redis", "pyarrow", "authlib",
                 "sentence-transformers", "vllm", "anthropic", "pydantic", "pytest"):  # fmt: skip
        assert name in declared, name


@pytest.mark.requirement("DEP-03")
def test_the_readme_has_exactly_two_set_up_commands() -> None:
    section = (ROOT / "README.md").read_text().split("## Two commands")[1].split("```")[1]
    commands = [line.split("#")[0].strip() for line in section.splitlines()[1:] if line.strip()]
    assert commands == ["make demo", "make test"]
