"""How many agent replicas the held runs need."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve.config import AutoscalingContext

from agentcy_ray.serve.scaling import HELD_RUNS, RunsPolicy


def _context(held: list[float] | None, target: int = 2) -> Any:
    """What Serve tells a policy: the figure of each replica, and where it is heading."""
    figures = {} if held is None else {HELD_RUNS: dict(enumerate(held))}
    nothing: Any = dict.fromkeys(
        (
            "deployment_id", "deployment_name", "app_name", "running_replicas", "raw_metrics",
            "total_num_requests", "total_queued_requests", "last_scale_up_time",
            "last_scale_down_time", "current_time", "config",
        ),
    )  # fmt: skip
    return AutoscalingContext(
        **nothing,
        current_num_replicas=target,
        target_num_replicas=target,
        aggregated_metrics=figures,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=9,
        policy_state={},
    )


@pytest.mark.parametrize(
    ("held", "replicas"),
    [([0], 1), ([40], 1), ([64], 2), ([64, 64], 3), ([10, 0, 3], 1), ([51, 51], 2)],
)
def test_replicas_are_kept_at_four_fifths_of_their_runs(held: list[float], replicas: int) -> None:
    assert RunsPolicy(64)(_context(held)) == (replicas, {})


def test_replicas_that_have_not_reported_change_nothing() -> None:
    assert RunsPolicy(64)(_context(None, target=3)) == (3, {})
