"""The Serve application: two deployments and the foreman that owns the shared actors."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve.config import DeploymentActorConfig, HTTPOptions
from ray.serve.schema import LoggingConfig

from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime import haproxy
from agentcy_ray.runtime.cluster_config import ClusterConfig, load_cluster_config
from agentcy_ray.runtime.deployment_options import agent_options, api_options
from agentcy_ray.runtime.foreman import Foreman
from agentcy_ray.runtime.listener import serve_host
from agentcy_ray.runtime.render.serve import AGENT_APP, API_APP, QUIET
from agentcy_ray.serve.deployments import Agent, Api
from agentcy_ray.serve.models import build_model


def deploy(settings: Settings, config: ClusterConfig, port: int) -> None:
    """Run both applications on the connected cluster; returns when they answer."""
    quiet = LoggingConfig(**QUIET)
    host = serve_host(settings, ha_proxy=haproxy.is_ingress())
    serve.start(
        http_options=HTTPOptions(host=host, port=port),
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


def build(args: dict[str, str]) -> Any:
    """Builder that a rendered Serve config names; the cluster config comes by the environment.

    Args:
        args: ``part``, which application: ``api``, ``agent`` or ``model``; ``name``, which model.

    Raises:
        ConfigError: there is no such part or model, or the cluster config is invalid.
        ModelUnavailableError: vLLM is not installed on the cluster.
    """
    config = load_cluster_config(Settings.load().agentcy_cluster_config)
    logging_config = LoggingConfig(**QUIET)
    match args.get("part"):
        case "api":
            return build_api(config, logging_config)
        case "agent":
            return build_agent(config, logging_config)
        case "model":
            return _build_model(config, args.get("name", ""))
        case other:
            raise ConfigError(
                f"no application is called {other!r}; args.part is api, agent or model"
            )


def _build_model(config: ClusterConfig, name: str) -> Any:
    for model in config.models:
        if model.name == name:
            return build_model(model, loopback=False)
    raise ConfigError(f"no model {name!r} is in the cluster config; render the Serve config again")


def build_api(config: ClusterConfig, logging_config: LoggingConfig) -> Any:
    """The HTTP application."""
    return Api.options(logging_config=logging_config, **api_options(config)).bind()


def build_agent(config: ClusterConfig, logging_config: LoggingConfig) -> Any:
    """The application that executes runs; it owns the shared actors through the foreman."""
    return Agent.options(
        logging_config=logging_config,
        deployment_actors=[
            DeploymentActorConfig(
                name="foreman", actor_class=ray.remote(Foreman), actor_options={"num_cpus": 0}
            )
        ],
        **agent_options(config),
    ).bind(config.agent.runs_per_replica)


def withdraw() -> None:
    """Take the applications and Serve itself down."""
    serve.shutdown()
