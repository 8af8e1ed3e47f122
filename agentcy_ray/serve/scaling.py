"""How many agent replicas there should be.

Executors claim runs from Postgres; nothing is sent to them, so that Serve sees no load. Each
replica therefore reports the runs that it holds, and this policy keeps them at four fifths full.
"""

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingContext

HELD_RUNS = "held_runs"
"""Name of the figure that replicas report."""
FULLNESS = 0.8
"""Above it, a burst of runs would wait for a replica to start."""


class RunsPolicy:
    """Serve's autoscaling policy of the agent deployment. Serve applies delays and bounds."""

    def __init__(self, runs_per_replica: int) -> None:
        self._target = FULLNESS * runs_per_replica

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Replicas that the held runs need, and the policy's state, of which there is none."""
        reported = (ctx.aggregated_metrics or {}).get(HELD_RUNS, {})
        if not reported:  # replicas that start have not reported yet
            return ctx.target_num_replicas, {}
        return max(1, math.ceil(sum(reported.values()) / self._target)), {}
