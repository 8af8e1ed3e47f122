"""The governed tool call beside its peers, beside itself without gates, and its latency.

``gated_vs_best_peer``: results a minute of the agent loop with a scripted model, as it is served:
policy, audit log, run log, and the connector's session in a host process of its own, on Ray. The
control is the best of the peers of ``benchmarks.peers``, which do the same work in one process
without any of that; ``gated_vs_<peer>`` names each. Whoever is measured does it alone, in turns.
``gates_on_vs_off``: the control is the same loop without policies and with an audit log that keeps
nothing. Each round counts the calls that completed, and those in the audit log.
``call_p99_ms``: one call as the loop makes it, from its due time to the released result. Calls are
due at random at half the rate of the first figure, whether or not earlier ones have been answered.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.core.tools import ToolStatus
from agentcy_ray.llm.scripted import scripted_reference
from benchmarks import peers
from benchmarks.figures import Figure, absolute, compared
from benchmarks.governed import Governed, governed, ungated

RUNS, TURNS, CALLS, ROUNDS = peers.RUNS, peers.TURNS, peers.CALLS, 5
LATENCY_SECS, LATENCY_ROUNDS = 5.0, 3
_CALL: dict[str, Any] = {"connector": "demo", "tool": "lookup", "args": {"id": "service-0"}}


async def run() -> list[Figure]:
    """All figures, with everything measured in one run."""
    on: list[float] = []
    off: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in peers.MODULES}
    tails: list[float] = []
    middles: list[float] = []
    async with governed() as gated, ungated(gated) as free:
        for subject in (gated, free):
            await subject.agent_runs(4, TURNS, CALLS)
        gc.collect()
        gc.freeze()  # as Serve does in its replicas
        for number in range(ROUNDS):
            for name, values in others.items():
                values.append(await peers.measure(name, RUNS, TURNS, CALLS))
            on.append(await gated.agent_runs(RUNS, TURNS, CALLS))
            off.append(await free.agent_runs(RUNS, TURNS, CALLS))
            rates = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in others.items())
            _say(f"round {number + 1}: gated {on[-1]:,.0f}, gates off {off[-1]:,.0f}, {rates}")
        per_second = statistics.median(on) / 60 / 2
        for _ in range(LATENCY_ROUNDS):
            millis = await _latencies(gated, per_second, LATENCY_SECS)
            tails.append(float(np.percentile(millis, 99)))
            middles.append(statistics.median(millis))
    best = max(others, key=lambda name: statistics.median(others[name]))
    unit = "results/min"
    beside = [compared(f"gated_vs_{name}", unit, name, on, others[name]) for name in others]
    return [
        compared("gated_vs_best_peer", unit, best, on, others[best], at_least=4),
        *beside,
        compared("gates_on_vs_off", unit, "gates off", on, off, at_least=0.7),
        absolute("call_p99_ms", "ms", tails, at_most=20),
        absolute("call_p50_ms", "ms", middles),
        absolute("call_load_per_sec", "calls/s", [per_second]),
    ]


async def _latencies(gated: Governed, per_second: float, secs: float) -> list[float]:
    """Milliseconds of each of ``per_second · secs`` calls of one run, open loop.

    Raises:
        RuntimeError: a call did not complete, or is not in the audit log.
    """
    (run,) = await gated.claimed_runs(1, scripted_reference(text="done"))
    ctx = CallContext(
        principal=run.principal, realm=run.realm, run_id=run.id, agent=gated.agent,
        request_id=run.input.request_id,
    )  # fmt: skip
    meta, clock = gated.services.gates.meta, time.perf_counter

    async def one(position: int, due: float) -> float:
        (opened,) = await meta.open(ctx, [("execute_connector_tool", _CALL, position)])
        await meta.finish(ctx, [opened], _nobody)
        took, result = clock() - due, opened.result
        if result is None or result.status is not ToolStatus.COMPLETED:
            raise RuntimeError(f"a call ended as {result}")
        return 1000 * took

    rng, count = random.Random(7), max(1, round(per_second * secs))
    due = clock()
    async with asyncio.TaskGroup() as group:
        calls: list[asyncio.Task[float]] = []
        for position in range(count):
            due += rng.expovariate(per_second)
            await asyncio.sleep(max(0.0, due - clock()))
            calls.append(group.create_task(one(position, due)))
    audited = await gated.audited([run.id])
    if audited != count:
        raise RuntimeError(f"{audited} of {count} calls are in the audit log")
    return [call.result() for call in calls]


async def _nobody(_: Sequence[OpenCall]) -> None:
    """Results are looked at when their calls have ended."""


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
