"""Metrics at the door: requests counted, and the text that Prometheus scrapes."""

from __future__ import annotations

from typing import Any

import structlog

from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.meters import SEPARATOR, Counter, Family, Histogram, Reading
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.shared_metrics import SharedMetrics

_log = structlog.get_logger(__name__)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
# What no process knows alone: the rows are the truth. Each counts in the small index of open rows.
_PENDING = "SELECT count(*) AS n FROM approvals WHERE status = 'pending'"
_RUNS = """
SELECT kind, count(*) AS n FROM runs WHERE status IN ('queued', 'running', 'waiting_approval')
GROUP BY kind
"""
_JOBS = """
SELECT kind, count(*) AS n FROM jobs WHERE status IN ('queued', 'retry_wait') GROUP BY kind
"""


class HttpMeters:
    """Counts answered requests."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is the path's pattern."""
        key = (method, route, status)
        found = self._children.get(key)
        if found is None:
            # A client may send any word as a method.
            labels = (method if method in _METHODS else "other", route, str(status))
            metrics = self._metrics
            found = (metrics.http_requests.of(*labels), metrics.http_seconds.of(*labels))
            if method in _METHODS:
                self._children[key] = found
        found[0].inc()
        found[1].observe(seconds)
        if status == 429:
            self._metrics.rate_limited.inc()


async def exposition(metrics: Metrics, shared: SharedMetrics, db: Database) -> bytes:
    """The figures of all processes in Prometheus' text form.

    While Redis or Postgres is away, what they would have told is left out.
    """
    total = await shared.total()
    try:
        await _ask_rows(metrics, db, total)
    except AgentcyError as error:
        _log.warning("metrics_without_rows", problem=error.message)
    return metrics.text(total).encode()


async def _ask_rows(metrics: Metrics, db: Database, total: Reading) -> None:
    async with db.system() as connection:
        pending = await connection.fetchval(_PENDING)
        runs = await connection.fetch(_RUNS)
        jobs = await connection.fetch(_JOBS)
    total.level[metrics.approvals_pending.name] = float(pending)
    _level(total, metrics.runs_active, runs)
    _level(total, metrics.queue_depth, jobs)


def _level(total: Reading, family: Family[Any], rows: list[Any]) -> None:
    for row in rows:
        total.level[SEPARATOR.join((family.name, row["kind"]))] = float(row["n"])
