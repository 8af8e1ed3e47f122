"""Options of the two Serve deployments, as plain data, for the application and its renderings."""

from __future__ import annotations

from typing import Any

from agentcy_ray.runtime.cluster_config.model import ClusterConfig
from agentcy_ray.runtime.cluster_config.parts import Autoscaling, Bounds

RUNS_POLICY = "agentcy_ray.serve.scaling:RunsPolicy"
"""Import path of what scales agent replicas: nothing is sent to them, so Serve counts no load."""


def api_options(config: ClusterConfig) -> dict[str, Any]:
    """Options of the deployment ``api``; it scales with its open requests."""
    part = config.api
    return {
        "max_ongoing_requests": 2 * part.target_streams,
        "ray_actor_options": part.actor_options(),
        **_replicas(
            part.replicas, part.autoscaling, target_ongoing_requests=float(part.target_streams)
        ),
    }


def agent_options(config: ClusterConfig) -> dict[str, Any]:
    """Options of the deployment ``agent``; it scales with the runs that its replicas hold."""
    part = config.agent
    policy = {
        "policy_function": RUNS_POLICY,
        "policy_kwargs": {"runs_per_replica": part.runs_per_replica},
    }
    return {
        "ray_actor_options": part.actor_options(),
        **_replicas(part.replicas, part.autoscaling, policy=policy),
    }


def _replicas(bounds: Bounds, speed: Autoscaling, **how: Any) -> dict[str, Any]:
    if bounds.min == bounds.max:
        return {"num_replicas": bounds.min}
    return {
        "autoscaling_config": {
            "min_replicas": bounds.min,
            "max_replicas": bounds.max,
            "upscale_delay_s": speed.upscale_delay_secs,
            "downscale_delay_s": speed.downscale_delay_secs,
            "metrics_interval_s": speed.metrics_interval_secs,
            "look_back_period_s": speed.look_back_secs,
            **how,
        }
    }
