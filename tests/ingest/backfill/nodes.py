"""A second node of the test's cluster, on this machine, and how it is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from agentcy_ray.cli import patience

START_SECS = 180.0


@dataclass(frozen=True)
class Node:
    """A raylet with its workers."""

    id: str
    process: subprocess.Popen[bytes]

    def lose(self) -> None:
        """Everything of the node at once, as when its power goes."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        for process in [psutil.Process(self.process.pid), *tree]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def runs(self, word: str) -> bool:
        """Whether one of the node's processes has the word in its command line."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if word in "".join(process.cmdline()):
                    return True
        return False


@asynccontextmanager
async def another_node(mark: str, folder: Path) -> AsyncIterator[Node]:
    """Start a raylet that offers eight of the resource ``mark``; it is gone afterwards."""
    address = ray.get_runtime_context().gcs_address
    before = {node["NodeID"] for node in ray.nodes()}
    log = folder / f"{mark}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("ray"), "start", "--block"),
                *("--address", address, "--node-ip-address", "127.0.0.1", "--num-cpus", "4"),
                *("--object-store-memory", str(100 * 2**20), "--resources", f'{{"{mark}": 8}}'),
                "--disable-usage-stats",
            ],
            stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:

        async def joined() -> str | None:
            assert process.poll() is None, log.read_text()
            return next((n["NodeID"] for n in ray.nodes() if n["NodeID"] not in before), None)

        node_id = await patience.until(joined, limit_secs=START_SECS)
        node = Node(node_id, process)
        yield node
        if process.poll() is None:
            node.lose()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
