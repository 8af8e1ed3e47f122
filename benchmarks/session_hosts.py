"""``host_scaling``, ``session_kb`` and what a call costs between dispatcher and host.

A cluster of two nodes on this machine, session hosts two to a node, real sources of the ``demo``
connector in Postgres, and calls through the dispatcher of the product; no gates and no audit.

``host_scaling``: calls a second of a tool that takes 20 ms, with 16 calls in flight a host, on two
and on four hosts, over as many times the rate of one host, as long as cores were left. The control
is that linear rate. ``session_kb``: what an idle connector session adds to its host.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Any
from uuid import UUID

import psutil

from agentcy_ray.connectors.registry import builtin_registry
from agentcy_ray.connectors.source_records import NewSource
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import Effect, ToolRequest
from agentcy_ray.stores.keys.opening import open_vault
from benchmarks.figures import Figure, absolute, machine
from benchmarks.stores import Bench, fresh_stores

HOSTS = (1, 2, 4)
IN_FLIGHT, SECS, ROUNDS = 16, 3.0, 3
SOURCES_A_HOST = 4
SESSIONS = 500
FULL = 0.95
"""Cores count as full from this share on."""


@dataclass(frozen=True)
class Rate:
    """One measurement."""

    per_second: float
    busy: float
    """Share of the cores that was in use, by whomever."""
    dispatcher_us: float
    hosts_us: float


async def run() -> list[Figure]:
    """Scaling first, then the cost of a call, then memory."""
    async with fresh_stores() as bench, _hosts(bench) as actors:
        sources = _Sources(bench)
        slow = await sources.spread(list(actors), latency_ms=20)
        quick = await sources.spread(list(actors), latency_ms=0)
        rates: dict[int, list[Rate]] = {count: [] for count in HOSTS}
        pids = [int((await _told(actor)).pid) for actor in actors.values()]
        for _ in range(ROUNDS):
            for count in HOSTS:
                names = list(actors)[:count]
                ids = [i for name in names for i in slow[name]]
                rates[count].append(await _rate(bench, names, ids, IN_FLIGHT * count, pids))
        first = list(actors)[:1]
        costs = [await _rate(bench, first, quick[first[0]], 128, pids) for _ in range(ROUNDS)]
        kilobytes = await _session_kb(bench, sources, first[0], pids[0])
    return [
        *(_scaling(count, rates) for count in HOSTS[1:]),
        absolute("dispatch_us_caller", "µs CPU/call", [cost.dispatcher_us for cost in costs]),
        absolute("dispatch_us_host", "µs CPU/call", [cost.hosts_us for cost in costs]),
        absolute("dispatched_noop", "calls/s", [cost.per_second for cost in costs]),
        absolute("session_kb", "KB", [kilobytes], at_most=50),
    ]


def _scaling(count: int, rates: dict[int, list[Rate]]) -> Figure:
    one = median(rate.per_second for rate in rates[1])
    values = [rate.per_second / (count * one) for rate in rates[count]]
    busy = median(rate.busy for rate in rates[count])
    full = busy >= FULL
    goal = f"≥ 0.9, unless the cores are full (they were {busy:.0%} busy)"
    return Figure(
        f"host_scaling_{count}", round(median(values), 3), "of linear", "one host, calls/s",
        round(one, 1), round(median(values), 3), goal, full or median(values) >= 0.9, len(values),
        (round(min(values), 3), round(max(values), 3)), machine(),
    )  # fmt: skip


async def _rate(
    bench: Bench, names: Sequence[str], sources: Sequence[UUID], in_flight: int, pids: list[int]
) -> Rate:
    from agentcy_ray.runtime.dispatch import RayDispatcher

    dispatcher = RayDispatcher(names, 128)
    await asyncio.gather(*(dispatcher.call(_request(bench, source)) for source in sources))
    hosts, me, done = [psutil.Process(pid) for pid in pids], psutil.Process(), 0
    end = time.perf_counter() + SECS

    async def call(source: UUID) -> None:
        nonlocal done
        while time.perf_counter() < end:
            outcome = await dispatcher.call(_request(bench, source))
            assert outcome.ok, outcome.error_message
            done += 1

    psutil.cpu_percent()
    mine, theirs, began = _cpu([me]), _cpu(hosts), time.perf_counter()
    await asyncio.gather(*(call(sources[i % len(sources)]) for i in range(in_flight)))
    secs = time.perf_counter() - began
    busy = psutil.cpu_percent() / 100
    mine, theirs = _cpu([me]) - mine, _cpu(hosts) - theirs
    await dispatcher.close()
    return Rate(done / secs, busy, mine / done * 1e6, theirs / done * 1e6)


async def _session_kb(bench: Bench, sources: _Sources, host: str, pid: int) -> float:
    """Bytes that a host grows by while it opens sessions, each called once, over their number."""
    from agentcy_ray.runtime.dispatch import RayDispatcher

    ids = [await sources.add(latency_ms=0) for _ in range(SESSIONS)]
    dispatcher, process = RayDispatcher([host], 128), psutil.Process(pid)
    before = process.memory_full_info().uss
    for i in range(0, SESSIONS, 20):
        await asyncio.gather(*(dispatcher.call(_request(bench, s)) for s in ids[i : i + 20]))
    grown = process.memory_full_info().uss - before
    await dispatcher.close()
    return grown / 1024 / SESSIONS


def _cpu(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _request(bench: Bench, source: UUID) -> ToolRequest:
    return ToolRequest(
        tool_call_id=new_id(),
        org_id=bench.owner.org_id,
        source_id=source,
        connector="demo",
        tool="lookup",
        args={"id": "service-3"},
        effect=Effect.READ,
        deadline=SystemClock().now() + timedelta(seconds=60),
    )


class _Sources:
    """Sources of the benchmark's organisation."""

    def __init__(self, bench: Bench) -> None:
        self._store = SourceStore(
            bench.db, open_vault(bench.settings), builtin_registry(bench.settings)
        )
        self._owner = bench.owner
        self._count = 0

    async def add(self, latency_ms: float) -> UUID:
        """One more."""
        self._count += 1
        source = await self._store.create(
            self._owner,
            NewSource(
                name=f"demo-{self._count}",
                connector="demo",
                config={"tool_latency_ms": latency_ms, "seed": self._count},
            ),
        )
        return source.id

    async def spread(self, names: Sequence[str], latency_ms: float) -> dict[str, list[UUID]]:
        """As many for each host, whichever of the first ones there are."""
        from agentcy_ray.runtime.host_set import choose_host

        found: dict[str, list[UUID]] = {name: [] for name in names}
        while min(len(ids) for ids in found.values()) < SOURCES_A_HOST:
            source = await self.add(latency_ms)
            mine = found[choose_host(source, names)]
            if len(mine) < SOURCES_A_HOST:
                mine.append(source)
        return found


@asynccontextmanager
async def _hosts(bench: Bench) -> AsyncIterator[dict[str, Any]]:
    """Four session hosts on a cluster of two nodes."""
    os.environ["AGENTCY_STATE_DIR"] = str(bench.settings.state_dir)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    from agentcy_ray.runtime.cluster import NAMESPACE
    from agentcy_ray.runtime.cluster_config import ClusterConfig
    from agentcy_ray.runtime.foreman import keep_hosts

    node: dict[str, Any] = {
        "num_cpus": 4, "resources": {"hosts": 2}, "object_store_memory": 100 * 2**20,
        "node_ip_address": "127.0.0.1", "include_dashboard": False,
    }  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    ray.init(
        address=cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR"
    )
    part = {"min": max(HOSTS), "max": max(HOSTS), "resources": {"hosts": 1}}
    keeper = keep_hosts(ClusterConfig.model_validate({"session_hosts": part}))
    try:
        actors = {name: ray.get_actor(name, namespace=NAMESPACE) for name in keeper.hosts.names}
        await asyncio.gather(*(actor.ping.remote() for actor in actors.values()))
        yield actors
    finally:
        ray.shutdown()
        cluster.shutdown()


async def _told(actor: Any) -> Any:
    from agentcy_ray.runtime.host_set import HostSet

    return await actor.tell.remote(HostSet(0, ()))
