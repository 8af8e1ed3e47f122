"""``stream_kb``: memory of an idle conversation stream; and 1,000 streams with events.

Memory is that of all processes together, through the ingress, each stream on a run of its own that
waits for its model; the runs wait before the first stream is opened. Streams are opened in steps,
after a first few, and each step gives a value. The controls are bare servers of streams
(``benchmarks.sse_controls``), measured in the same way.

Events: an organisation has 50 runs under way at most, so each run is followed by twenty streams;
its model says a word twice a second after a wait that lets the streams open. Every stream must
bring every event of its run's log, once and in order.
``sse_event_p99_ms`` is from the event's time, which Postgres gives it before the commit, to the
client's socket, for events that are younger than the stream.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import psutil

from agentcy_ray.cli.client import API, Client
from agentcy_ray.cli.profile import saved_login
from agentcy_ray.core.settings import Settings
from agentcy_ray.llm.scripted import scripted_reference
from benchmarks.figures import Figure, absolute, compared
from benchmarks.memory import processes_of, settled_kb
from benchmarks.platform import running_platform
from benchmarks.sse_client import SseClient, sse_client
from benchmarks.sse_controls import CONTROLS, ROUTE, bare_server

FIRST, STREAMS, STEPS = 50, 1000, 4
"""Streams before the first step; streams of all steps together; steps."""
EVENT_STREAMS, EVENT_RUNS, WORDS, WORD_MS, WAIT_MS = 1000, 50, 40, 500, 30_000
AT_ONCE = 16
_SHAPE = """
name: bench
api: {target_streams: 5000}
agent: {runs_per_replica: 2000}
"""


async def run() -> list[Figure]:
    """Controls first, then the platform: idle streams, then streams with events."""
    controls: dict[str, list[float]] = {}
    for name in CONTROLS:
        async with bare_server(name) as (url, folder), sse_client(url, {}) as client:
            controls[name] = await _per_stream(client, [ROUTE] * (FIRST + STREAMS), folder)
            _say(f"{name}: {[round(value, 1) for value in controls[name]]} KB a stream")
    with tempfile.TemporaryDirectory(prefix="agb-") as name:
        shape = Path(name) / "cluster.yaml"
        shape.write_text(_SHAPE)
        # A model that says nothing for an hour is what idle streams wait for.
        patience = {"llm_timeout_secs": 7200.0, "agentcy_cluster_config": str(shape)}
        with running_platform(**patience) as (settings, running):
            idle = await _idle(settings, running.url)
            events = await _with_events(settings, running.url)
    return [
        absolute("stream_kb", "KB", idle, at_most=50),
        *(compared(f"stream_kb_vs_{name}", "KB", name, idle, controls[name]) for name in CONTROLS),
        absolute("sse_lost_events", "events", [events.lost], at_most=0),
        absolute("sse_event_p99_ms", "ms", [float(np.percentile(events.millis, 99))]),
        absolute("sse_event_p50_ms", "ms", [float(np.percentile(events.millis, 50))]),
        absolute("sse_events_per_sec", "events/s", [events.per_second]),
    ]


@dataclass(frozen=True)
class _Events:
    lost: int
    millis: list[float]
    per_second: float


async def _idle(settings: Settings, url: str) -> list[float]:
    """Kilobytes a stream, of each step."""
    async with Client(settings, url) as client:
        waiting = scripted_reference(text="done", ttft=3_600_000)
        runs = await _runs(client, settings, FIRST + STREAMS, waiting)
        async with sse_client(url, _headers(settings, url)) as streams:
            paths = [_events_of(run) for run in runs]
            values = await _per_stream(streams, paths, settings.state_dir)

        async def cancelled(run: str) -> None:
            await client.post(f"/runs/{run}/cancel")

        await _each(runs, cancelled)
    return values


async def _per_stream(client: SseClient, paths: Sequence[str], folder: Path) -> list[float]:
    await client.open(paths[:FIRST])
    processes = processes_of(folder)
    before, values, step = await settled_kb(processes), list[float](), STREAMS // STEPS
    first = before
    for number in range(STEPS):
        start = FIRST + number * step
        await client.open(paths[start : start + step])
        after = await settled_kb(processes)
        values.append((after.total() - before.total()) / step)
        before = after
    _explain(processes, before - first)
    return values


async def _with_events(settings: Settings, url: str) -> _Events:
    """Follow runs to their ends, and hold what came against their logs."""
    async with Client(settings, url) as client:
        text = " ".join(["word"] * WORDS)
        talking = scripted_reference(text=text, ttft=WAIT_MS, itl=WORD_MS)
        runs = await _runs(client, settings, EVENT_RUNS, talking)
        followed = [runs[number % EVENT_RUNS] for number in range(EVENT_STREAMS)]
        async with sse_client(url, _headers(settings, url)) as streams:
            await streams.open([_events_of(run) for run in followed])
            opened = time.time()
            received = await streams.follow()
        async with _json_only(settings, url) as http:

            async def log(run: str) -> dict[str, Any]:
                answer = await http.get(_events_of(run), params={"limit": 200})
                return answer.raise_for_status().json()

            logs = dict(zip(runs, await _each(runs, log), strict=True))
    lost, millis, times = 0, list[float](), list[int]()
    for run, came in zip(followed, received, strict=True):
        kept_log = logs[run]
        told = [int(seq) for seq, _ in came]
        kept = {event["seq"]: _seconds(event["at"]) for event in kept_log["items"]}
        if told != sorted(set(told)):
            raise RuntimeError(f"a stream told events twice or out of order: {told}")
        lost += len(kept.keys() - set(told))
        live = [(seq, at) for seq, at in came if kept[seq] > opened]
        millis += [at / 1e6 - 1000 * kept[seq] for seq, at in live]
        times += [at for _, at in live]
    if not millis:
        raise RuntimeError("every event was older than its stream; raise WAIT_MS")
    return _Events(lost, millis, len(times) / (max(times) - min(times)) * 1e9)


async def _runs(client: Client, settings: Settings, count: int, model: str) -> list[str]:
    """Ids of runs in conversations of their own, in the order of their start."""
    await client.get("/auth/me")  # one login for all that follow
    async with _json_only(settings, client.url) as http:

        async def started(_: int) -> str:
            conversation = await client.post("/chat/conversations", {"model": model})
            path = f"{API}/chat/conversations/{conversation['id']}/messages"
            answer = await http.post(path, json={"content": "Speak."})
            answer.raise_for_status()
            return answer.json()["run_id"]

        return await _each(range(count), started)


async def _each(items: Any, work: Any) -> list[Any]:
    """The answers for all items, a few at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Any) -> Any:
        async with gate:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))


def _headers(settings: Settings, url: str) -> dict[str, str]:
    token = saved_login(settings, url)["token"]
    return {"authorization": f"Bearer {token}", "accept": "text/event-stream"}


def _json_only(settings: Settings, url: str) -> httpx.AsyncClient:
    """Asks for JSON, where the command line's client would get a stream to the run's end."""
    headers = {**_headers(settings, url), "accept": "application/json"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=60)


def _events_of(run: str) -> str:
    return f"{API}/runs/{run}/events"


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _explain(processes: list[psutil.Process], more: Counter[int]) -> None:
    names = {process.pid: process for process in processes}
    for pid, size in more.most_common(5):
        name = names[pid].name() if names[pid].is_running() else "a process that ended"
        _say(f"  {name}: {size / STREAMS:.1f} KB a stream")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
