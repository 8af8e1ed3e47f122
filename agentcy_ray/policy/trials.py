"""Trying policies within a request: in a thread, so that no other request waits, and bounded.

A set may cost seconds a question, above all one whose process is ended by each; a request that asks
hundreds of them must keep neither a thread nor a core for as long.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

from agentcy_ray.policy.candidates import Explanation, PolicySet, explain
from agentcy_ray.policy.engine import RegoEngine
from agentcy_ray.policy.input import PolicyInput
from agentcy_ray.policy.modules import invalid
from agentcy_ray.policy.replay import BlastRadius, Recorded, Tally

T = TypeVar("T")
TRY_SECS = 20.0
"""How long the questions of one request may take; the one that is decided then comes to its end."""


def explained(engine: RegoEngine, questions: Sequence[PolicyInput]) -> list[Explanation]:
    """Decide questions and say why, in this thread.

    Raises:
        PolicyInvalidError: they take longer than ``TRY_SECS``.
    """
    until = time.monotonic() + TRY_SECS
    try:
        return [explain(engine, question) for question in _in_time(questions, until)]
    finally:
        engine.leave_thread()


def replayed(
    before: PolicySet, after: PolicySet, timeout_ms: float, records: Sequence[Recorded]
) -> BlastRadius:
    """Compile two sets and replay records by both, in this thread.

    Raises:
        PolicyInvalidError: a set does not compile, or the records take longer than ``TRY_SECS``.
    """
    engines = before.compile(timeout_ms), after.compile(timeout_ms)
    until, tally = time.monotonic() + TRY_SECS, Tally()
    try:
        for record in _in_time(records, until):
            tally.replay(*engines, [record])
    finally:
        for engine in engines:
            engine.leave_thread()
    return tally.report()


def _in_time(items: Iterable[T], until: float) -> Iterable[T]:
    for item in items:
        if time.monotonic() > until:
            raise invalid(
                "the policy set",
                f"takes longer than {TRY_SECS:g} s for so many questions; ask fewer at once, or"
                " replay them in the background by POST /policies/replays",
                None,
                None,
            )
        yield item
