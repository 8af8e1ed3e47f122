"""The Serve application: two deployments and the foreman that owns the shared actors."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, DeploymentActorConfig, HTTPOptions
from ray.serve.schema import LoggingConfig

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime.cluster_config import Bounds, ClusterConfig
from agentcy_ray.runtime.foreman import Foreman
from agentcy_ray.serve.deployments import Agent, Api

API_APP = "agentcy"
AGENT_APP = "agentcy-agent"


def deploy(settings: Settings, config: ClusterConfig, port: int) -> None:
    """Run both applications on the connected cluster; returns when they answer."""
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(
        http_options=HTTPOptions(host=settings.agentcy_host, port=port),
        logging_config=quiet,
    )
    targets = [
        serve.RunTarget(build_api(config, quiet), name=API_APP, route_prefix="/"),
        serve.RunTarget(build_agent(config, quiet), name=AGENT_APP, route_prefix=None),
    ]
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        raise StoreUnavailableError(f"the application did not start: {_why(str(error))}") from error


def _why(text: str) -> str:
    """What a replica said last, out of the statuses of both applications."""
    messages = [
        deployment.message
        for application in serve.status().applications.values()
        for deployment in application.deployments.values()
        if deployment.message
    ]
    lines = "\n".join(messages).strip().splitlines()
    return lines[-1] if lines else text


def build_api(config: ClusterConfig, logging_config: LoggingConfig) -> Any:
    """The HTTP application."""
    return Api.options(
        max_ongoing_requests=2 * config.api.target_streams,
        ray_actor_options={"num_cpus": config.api.num_cpus},
        logging_config=logging_config,
        **_replicas(config.api.replicas, config.api.target_streams),
    ).bind()


def build_agent(config: ClusterConfig, logging_config: LoggingConfig) -> Any:
    """The application that executes runs; it owns the shared actors through the foreman."""
    return Agent.options(
        num_replicas=config.agent.replicas.min,
        ray_actor_options={"num_cpus": config.agent.num_cpus},
        logging_config=logging_config,
        deployment_actors=[
            DeploymentActorConfig(
                name="foreman", actor_class=ray.remote(Foreman), actor_options={"num_cpus": 0}
            )
        ],
    ).bind(config.agent.runs_per_replica)


def withdraw() -> None:
    """Take the applications and Serve itself down."""
    serve.shutdown()


def _replicas(bounds: Bounds, target: int) -> dict[str, Any]:
    if bounds.min == bounds.max:
        return {"num_replicas": bounds.min}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=bounds.min, max_replicas=bounds.max, target_ongoing_requests=target
        )
    }
