"""The whole platform as a user starts it: `agentcy up`, on a state folder and port of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import pygit2
import pytest

WAIT_SECS = 240
PLUGINS = Path(__file__).parent / "plugins"
"""A connector from outside, installed by lying on the path."""

CANARY = "Kanarienvogel0verTheMine"
"""A part of every secret of a test: wherever it is found, one has got out."""
SECRETS = {
    "OPENAI_API_KEY": f"sk-proj-{CANARY}-of-openai",
    "JWT_SECRET": f"{CANARY}-signs-access-tokens",
}


@dataclass(frozen=True)
class Machine:
    """A started platform, and the commands that a user has for it."""

    state_dir: Path
    workdir: Path
    pid: int
    url: str

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.state_dir)

    def agentcy(self, *words: str, code: int = 0) -> Any:
        """Run `agentcy … --json`; returns its JSON. Fails when it exits otherwise than expected."""
        done = subprocess.run(
            [sys.executable, "-m", "agentcy_ray.cli", *words, "--json"],
            cwd=self.workdir,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECS,
        )
        assert done.returncode == code, f"{words} → {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return orjson.loads(done.stdout) if done.stdout.strip() else None

    def processes(self, *names: str) -> list[psutil.Process]:
        """Descendants whose command line holds one of ``names``."""
        return [
            process
            for process in psutil.Process(self.pid).children(recursive=True)
            if any(name in command(process) for name in names)
        ]

    def embedded(self, name: str) -> psutil.Process:
        """One embedded server."""
        rows = self.agentcy("status")["servers"]
        return psutil.Process(next(row["pid"] for row in rows if row["name"] == name))


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended while we looked
        return ""


def environment(state_dir: Path) -> dict[str, str]:
    """This process's variables without ours, and with the state folder."""
    stores = ("DATABASE_", "REDIS_", "NEO4J_", "KYMA_", "CONTEXT_")
    ours = ("AGENTCY_", *stores, "LLM_", "RAY_", "PYTHONDONTWRITE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # A dead worker is missed after seconds instead of a minute.
    short = {"JOB_LEASE_SECS": "6", "JOB_HEARTBEAT_SECS": "1", "LLM_MAX_RETRIES": "0"}
    more = {**SECRETS, "PYTHONPATH": str(PLUGINS)}
    return {**kept, **short, **more, "AGENTCY_STATE_DIR": str(state_dir), "AGENTCY_PORT": "0"}


@pytest.fixture(scope="session")
def workdir() -> Iterator[Path]:
    """A short path: unix sockets of Ray and of the servers lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="ae2e-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def repository(workdir: Path) -> Path:
    """A small git repository with something to say about retries."""
    root = workdir / "project"
    repo = pygit2.init_repository(str(root), initial_head="main")
    author = pygit2.Signature("Ada", "ada@example.org", 1_700_000_000, 0)
    parents: list[Any] = []
    for number in range(12):
        (root / "docs").mkdir(exist_ok=True)
        (root / "docs" / f"part{number}.md").write_text(
            f"# Part {number}\n\nRetries of part {number} wait {number + 1} seconds, then double.\n"
        )
        repo.index.add_all()
        repo.index.write()
        tree = repo.index.write_tree()
        message = f"Describe the retries of part {number}"
        parents = [repo.create_commit("HEAD", author, author, message, tree, parents)]
    return root


@pytest.fixture(scope="session")
def machine(workdir: Path, repository: Path) -> Iterator[Machine]:
    """`agentcy up --detach`, and `agentcy down` at the end."""
    state_dir = workdir / "s"
    done = subprocess.run(
        [sys.executable, "-m", "agentcy_ray.cli", "up", "--detach", "--json"],
        cwd=workdir,
        env=environment(state_dir),
        capture_output=True,
        text=True,
        timeout=WAIT_SECS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    running = orjson.loads(done.stdout)
    started = Machine(state_dir, workdir, running["pid"], running["url"])
    try:
        yield started
    finally:
        subprocess.run(
            [sys.executable, "-m", "agentcy_ray.cli", "down"],
            env=environment(state_dir),
            capture_output=True,
            timeout=WAIT_SECS,
        )
