"""``security_cost``: the authenticated no-op route of this tree, against that of an earlier commit.

Subject: ``GET /api/v1/auth/ping`` with a bearer token, through HAProxy, Serve and every layer of
the way in. Control: the same route of the platform as it was at ``BEFORE``, from the repository,
with the same packages, on a state folder and ports of its own. Both run all the time, and are asked
in turns, so what one costs while it idles burdens both.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx2 as httpx
import orjson

from benchmarks.figures import Figure, alternate, compared
from benchmarks.http_load import requests_per_second
from benchmarks.platform import running_platform

BEFORE = "9798d6b"
"""The commit before rate limits, checks of bodies, tenancy's roles and the rest came."""
SECS, CONNECTIONS, ROUNDS = 4.0, 32, 5
START_SECS = 300


async def run() -> list[Figure]:
    """Requests a second of both, in turns."""
    with running_platform() as (settings, running), _platform_before() as (before, state):
        token = _token(running.url, settings.state_dir)
        token_before = _token(before, state)

        async def subject() -> float:
            return await _load(running.url, token)

        async def control() -> float:
            return await _load(before, token_before)

        values, control_values = await alternate(subject, control, rounds=ROUNDS)
    return [
        compared(
            "security_cost", "requests/s", f"the same route at {BEFORE}", values, control_values,
            at_least=0.85,
        )
    ]  # fmt: skip


async def _load(url: str, token: str) -> float:
    headers = {"authorization": f"Bearer {token}"}
    return await asyncio.to_thread(
        requests_per_second, f"{url}/api/v1/auth/ping", headers, SECS, CONNECTIONS
    )


def _token(url: str, state_dir: Path) -> str:
    """A login of the first owner."""
    password = orjson.loads((state_dir / "secrets.json").read_bytes())["admin_password"]
    body = {"email": "admin@localhost", "password": password}
    answer = httpx.post(f"{url}/api/v1/auth/login", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()["token"]


@contextmanager
def _platform_before() -> Iterator[tuple[str, Path]]:
    """The platform of ``BEFORE``: its URL and state folder.

    Raises:
        RuntimeError: the repository does not hold the commit, or the platform did not start.
    """
    root = Path(__file__).parents[1]
    packed = subprocess.run(
        ["git", "-C", str(root), "archive", BEFORE, "agentcy_ray", "cluster"], capture_output=True
    )
    if packed.returncode:
        raise RuntimeError(f"no commit {BEFORE} here: {packed.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="agb-") as folder:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        state = Path(folder) / "s"
        environment = {
            **os.environ,
            "PYTHONPATH": folder,
            "AGENTCY_STATE_DIR": str(state),
            "AGENTCY_PORT": "0",
        }
        with (Path(folder) / "up.log").open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "agentcy_ray.cli", "up"],
                cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            )  # fmt: skip
        try:
            yield _url(process, Path(folder)), state
        finally:
            process.terminate()
            process.wait(60)


def _url(process: subprocess.Popen[bytes], folder: Path) -> str:
    deadline = time.monotonic() + START_SECS
    while time.monotonic() < deadline and process.poll() is None:
        record = folder / "s" / "up.json"
        if record.exists():
            return str(orjson.loads(record.read_bytes())["url"])
        time.sleep(0.2)
    raise RuntimeError(f"the platform before did not start: {(folder / 'up.log').read_text()}")
