"""What tool calls cost, stage by stage: figures of every call, for less than two microseconds."""

from __future__ import annotations

from time import perf_counter

from agentcy_ray.agent.calls import OpenCall
from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.meters import Counter, Histogram
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.tools import ToolStatus
from agentcy_ray.policy.input import Decision

UNKNOWN = "unknown"
"""The connector of a call that named none of the catalog's; its own word may be anything."""
_DENIED, _CANCELLED = ToolStatus.DENIED, ToolStatus.CANCELLED


class _Stages:
    """Time histograms of a connector."""

    __slots__ = ("approval", "audit", "dispatch", "gate", "policy", "queue", "total")

    def __init__(self, metrics: Metrics, connector: str) -> None:
        def stage(name: str) -> Histogram:
            return metrics.tool_seconds.of(connector, name)

        self.gate, self.policy, self.approval = stage("gate"), stage("policy"), stage("approval")
        self.dispatch, self.queue = stage("dispatch"), stage("queue")
        self.audit, self.total = stage("audit"), stage("total")


class ToolMeters:
    """Moves the metrics of the tool path.

    Stages: ``gate`` from the call's arrival until every gate but a person's was passed, ``policy``
    within it, ``approval`` the wait for people, ``dispatch`` the way to the session host and back,
    ``queue`` that without the tool's own time, ``audit`` receipt and audit entry, ``total`` all.
    """

    def __init__(self, metrics: Metrics, clock: Clock | None = None) -> None:
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._calls: dict[tuple[str, str, str], tuple[Counter, _Stages]] = {}
        self._stages: dict[str, _Stages] = {}
        self._decided: dict[tuple[str, bool], tuple[Histogram, Counter]] = {
            (decision, cached): (
                metrics.policy_seconds.of(decision),
                metrics.policy_cache.of("hit" if cached else "miss"),
            )
            for decision in ("allow", "deny")
            for cached in (False, True)
        }

    def decided(self, decision: Decision, secs: float) -> None:
        """A policy decision was made."""
        times, source = self._decided[decision.decision, decision.cached]
        times.observe(secs)
        source.inc()

    def woken(self, opened: OpenCall) -> None:
        """A call goes on after its approval was decided."""
        decided = opened.approval.decided_at if opened.approval is not None else None
        if decided is not None:
            late = (self._clock.now() - decided).total_seconds()
            self._metrics.approval_wakeup.observe(max(late, 0.0))

    def ended(self, opened: OpenCall) -> None:
        """A call has its result."""
        connector = opened.entry.connector if opened.entry is not None else UNKNOWN
        # As text: an enum's hash is computed in Python, at twice the cost of all the rest here.
        key = (connector, str(opened.effect), _decision(opened))
        found = self._calls.get(key)
        if found is None:
            found = self._calls[key] = self._found(key)
        count, stages = found
        count.inc()
        times = opened.times
        stages.total.observe(perf_counter() - times.began)
        stages.gate.observe(times.gate)
        if times.policy:
            stages.policy.observe(times.policy)
        if times.approval:
            stages.approval.observe(times.approval)
        if times.dispatch:
            stages.dispatch.observe(times.dispatch)
            stages.queue.observe(times.queue)
        if times.audit:
            stages.audit.observe(times.audit)

    def _found(self, key: tuple[str, str, str]) -> tuple[Counter, _Stages]:
        connector, effect, decision = key
        stages = self._stages.get(connector)
        if stages is None:
            stages = self._stages[connector] = _Stages(self._metrics, connector)
        return self._metrics.tool_calls.of(connector, effect, decision), stages


def _decision(opened: OpenCall) -> str:
    """``allow``, ``approved`` by people, ``deny``, or ``invalid``: it came to no decision."""
    status = opened.result.status if opened.result is not None else None
    if status is _DENIED or status is _CANCELLED:
        return "deny"
    if opened.approval is not None:
        return "approved"
    return "allow" if opened.decision is not None or opened.row is not None else "invalid"
