"""``vs_fastapi``: our authenticated no-op route through the ingress, against bare FastAPI.

Subject: ``GET /api/v1/auth/ping`` with a bearer token, through HAProxy, Serve and every middleware.
Control: a FastAPI route that returns a dict, on uvicorn, one process, no authentication.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.profile import saved_login
from agentcy_ray.stores.embedded.ports import choose
from benchmarks.figures import Figure, alternate, compared
from benchmarks.http_load import requests_per_second
from benchmarks.platform import running_platform

SECS, CONNECTIONS = 4.0, 32
_BARE = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.get("/noop")
async def noop():
    return {"ok": True}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
"""


async def run() -> list[Figure]:
    """Requests a second of both, in turns."""
    with running_platform() as (settings, running), _bare_fastapi() as control_url:
        async with Client(settings, running.url) as client:
            await client.get("/auth/me")
        token = saved_login(settings, running.url)["token"]
        headers = {"authorization": f"Bearer {token}"}

        async def subject() -> float:
            return await _load(f"{running.url}/api/v1/auth/ping", headers)

        async def control() -> float:
            return await _load(control_url, {})

        values, control_values = await alternate(subject, control, rounds=5)
    return [
        compared(
            "vs_fastapi", "requests/s", "bare FastAPI on uvicorn", values, control_values,
            at_least=0.6,
        )
    ]  # fmt: skip


async def _load(url: str, headers: dict[str, str]) -> float:
    return await asyncio.to_thread(requests_per_second, url, headers, SECS, CONNECTIONS)


@contextmanager
def _bare_fastapi() -> Iterator[str]:
    port = choose([])
    process = subprocess.Popen([sys.executable, "-c", _BARE, str(port)])
    url = f"http://127.0.0.1:{port}/noop"
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=60)) as client:
            for _ in range(100):
                try:
                    client.get(url)
                    break
                except httpx.TransportError:
                    process.poll()
        yield url
    finally:
        process.terminate()
        process.wait()
