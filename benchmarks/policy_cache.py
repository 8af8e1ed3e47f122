"""``policy_hit_us``, ``policy_uncached_per_sec``: the policy gate of a tool call.

A hit is the whole gate as the gateway passes it: from the ``PolicyInput`` of a call to its decision
by ``PolicyService.decide``, with the starter bundles. Its control is the evaluation that it saves.
``policy_input_us`` is what making that input costs besides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import CatalogEntry, Effect, ToolSpec
from agentcy_ray.policy.engine import RegoEngine, compile_policies
from agentcy_ray.policy.input import InputBuilder, PolicyInput
from agentcy_ray.policy.service import PolicyService
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.redis import open_redis
from benchmarks.figures import Figure, absolute, compared
from benchmarks.stores import Bench, fresh_stores

CALLS, EVALUATIONS, ROUNDS = 20_000, 2_000, 7
_TOOLS = ("look", "list", "grep", "stir")


async def run() -> list[Figure]:
    """Hits and evaluations in turns, over the same questions."""
    async with fresh_stores() as bench:
        redis = await open_redis(bench.endpoints.redis_url, "bench-policy")
        bell = Bell(redis)
        service = PolicyService(bench.db, bell, bench.settings)
        engine = compile_policies(
            [policy.text for policy in await service.store.list(bench.owner.org_id)], {}, 1000
        )
        ask = _asker(service.inputs, bench)
        questions = [ask(n) for n in range(CALLS)]
        hits: list[float] = []
        evaluations: list[float] = []
        inputs: list[float] = []
        for _ in range(ROUNDS):
            evaluations.append(_evaluate(engine, questions[:EVALUATIONS]))
            hits.append(await _decide(service, bench, questions))
            inputs.append(_make(ask))
        await service.close()
        await bell.aclose()
        await redis.aclose()
    per_second = [1e6 / each for each in evaluations]
    return [
        absolute("policy_hit_us", "µs", hits, at_most=10),
        compared("policy_hit_vs_evaluation", "µs", "an evaluation", hits, evaluations, at_most=0.2),
        absolute("policy_uncached_per_sec", "1/s", per_second),
        absolute("policy_input_us", "µs", inputs),
    ]


def _asker(builder: InputBuilder, bench: Bench) -> Callable[[int], PolicyInput]:
    """Makes the input of the n-th call: new arguments and request each time, four tools."""
    run_id, source = new_id(), new_id()
    entries = [
        CatalogEntry(
            connector="lab", source="bench", source_id=source, realm="default", version="1",
            spec=ToolSpec(
                name=tool, title=tool, description=tool, input_schema={},
                effect=Effect.WRITE if tool == "stir" else Effect.READ,
            ),
        )
        for tool in _TOOLS
    ]  # fmt: skip

    def ask(n: int) -> PolicyInput:
        args: dict[str, Any] = {"id": f"flask-{n}", "deep": {"n": n}}
        return builder.tool(
            bench.owner, entries[n % len(entries)], args, f"{n:064x}",
            request_id=f"req_{n:012d}", realm="default", run_id=run_id, agent="default",
        )  # fmt: skip

    return ask


async def _decide(service: PolicyService, bench: Bench, questions: list[PolicyInput]) -> float:
    """Microseconds a decision; all but the first of each tool are hits."""
    org_id, cached = bench.owner.org_id, 0
    began = time.perf_counter()
    for question in questions:
        cached += (await service.decide(org_id, question)).cached
    spent = time.perf_counter() - began
    assert cached >= len(questions) - len(_TOOLS)
    return 1e6 * spent / len(questions)


def _evaluate(engine: RegoEngine, questions: list[PolicyInput]) -> float:
    """Microseconds an evaluation of the whole input."""
    began = time.perf_counter()
    for question in questions:
        engine.evaluate(question)
    return 1e6 * (time.perf_counter() - began) / len(questions)


def _make(ask: Callable[[int], PolicyInput]) -> float:
    """Microseconds that making an input takes."""
    began = time.perf_counter()
    for n in range(CALLS):
        ask(n)
    return 1e6 * (time.perf_counter() - began) / CALLS
