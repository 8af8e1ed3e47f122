"""The Serve config: what ``serve deploy`` and a RayService take."""

from __future__ import annotations

from typing import Any

from agentcy_ray.runtime.cluster_config.model import ClusterConfig
from agentcy_ray.runtime.deployment_options import agent_options, api_options
from agentcy_ray.runtime.llm_config import DEPLOYMENT, application_name, replica_options
from agentcy_ray.runtime.render.environment import application_environment
from agentcy_ray.runtime.render.text import rendered

IMPORT_PATH = "agentcy_ray.serve.application:build"
API_APP = "agentcy"
AGENT_APP = "agentcy-agent"
QUIET: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}


def serve_config(config: ClusterConfig) -> dict[str, Any]:
    """The config as data, in the terms of Serve's own schema."""
    environment = {"env_vars": application_environment(config)}

    def application(
        app: str, route: str | None, part: str, options: Any, **args: str
    ) -> dict[str, Any]:
        return {
            "name": app,
            "route_prefix": route,
            "import_path": IMPORT_PATH,
            "args": {"part": part, **args},
            "runtime_env": environment,
            "deployments": [{"name": part, **options}],
        }

    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.serve.host, "port": config.serve.port},
        "logging_config": QUIET,
        "applications": [
            application(API_APP, "/", "api", api_options(config)),
            application(AGENT_APP, None, "agent", agent_options(config)),
            *(
                application(
                    application_name(one), None, DEPLOYMENT, replica_options(one), name=one.name
                )
                for one in config.models
            ),
        ],
    }


def render_serve(config: ClusterConfig) -> str:
    """The config as a YAML file."""
    return rendered("serve", [serve_config(config)])
