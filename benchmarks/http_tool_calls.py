"""``http_single`` and ``http_batch``: tool calls over HTTP, results a minute.

Subject: ``POST …/tool-calls`` with a bearer token, through HAProxy, Serve, every middleware and
every gate, to a no-op tool on a session host, and its audit entry; one call a request, or 128.
Control: Ray Serve alone with a no-op route that takes and gives the same JSON (``bare_serve``).
``batch_cost_per_call``: what a call of a batch costs of what a single one does.
"""

from __future__ import annotations

import asyncio

import orjson

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.profile import saved_login
from benchmarks.bare_serve import bare_serve
from benchmarks.figures import Figure, absolute, alternate, compared
from benchmarks.http_load import requests_per_second
from benchmarks.platform import running_platform

SECS, ROUNDS, BATCH = 4.0, 5, 128
CONNECTIONS, BATCH_CONNECTIONS = 32, 4
_CALL = {"connector": "demo", "tool": "lookup", "args": {"id": "service-0"}}
_ONE = orjson.dumps(_CALL)
_MANY = orjson.dumps({"calls": [_CALL] * BATCH})


async def run() -> list[Figure]:
    """Results a minute of both forms and their controls, in turns."""
    with running_platform() as (settings, running), bare_serve() as control_url:
        async with Client(settings, running.url) as client:
            await client.post("/sources", {"name": "bench", "connector": "demo", "config": {}})
            conversation = await client.post("/chat/conversations", {"title": "benchmark"})
            path = f"/chat/conversations/{conversation['id']}/tool-calls"
            answer = await client.post(path, {"calls": [_CALL] * 2})
            assert [call["status"] for call in answer["results"]] == ["completed"] * 2, answer
        url = f"{running.url}/api/v1{path}"
        headers = {"authorization": f"Bearer {saved_login(settings, running.url)['token']}"}
        single, single_control = await alternate(
            lambda: _rate(url, headers, _ONE, 1), lambda: _rate(control_url, {}, _ONE, 1), ROUNDS
        )
        batch, batch_control = await alternate(
            lambda: _rate(url, headers, _MANY, BATCH),
            lambda: _rate(control_url, {}, _MANY, BATCH),
            ROUNDS,
        )
    costs = [one / many for one, many in zip(single, batch, strict=True)]
    return [
        compared("http_single", "results/min", "bare Serve, no-op", single, single_control),
        compared("http_batch", "results/min", "bare Serve, no-op", batch, batch_control),
        absolute("batch_cost_per_call", "of a single call", costs, at_most=0.25),
    ]


async def _rate(url: str, headers: dict[str, str], body: bytes, calls: int) -> float:
    """Results a minute; a batch answers 200 whatever its calls did, so ``run`` looked at one."""
    connections = CONNECTIONS if calls == 1 else BATCH_CONNECTIONS
    rate = await asyncio.to_thread(requests_per_second, url, headers, SECS, connections, body)
    return 60 * calls * rate
