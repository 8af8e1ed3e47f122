"""The YAML of ``ray up``: machines that Ray's own launcher starts or, type ``local``, finds."""

from __future__ import annotations

import shlex
from typing import Any

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime.cluster_config.model import ClusterConfig
from agentcy_ray.runtime.cluster_config.nodes import Node
from agentcy_ray.runtime.cluster_config.plan import usable_memory
from agentcy_ray.runtime.render.environment import node_environment
from agentcy_ray.runtime.render.text import rendered

INGRESS = "$HOME/.agentcy/ingress"
"""Where each node keeps its HAProxy."""
TOKEN = "~/.ray/auth_token"  # noqa: S105 - a path
"""Where Ray looks for its token; the launcher copies it from here to each node."""


def render_ray_up(config: ClusterConfig) -> str:
    """The launcher's config as a YAML file.

    Raises:
        ConfigError: the config names no nodes, or asks of them what the provider cannot give.
    """
    return rendered("ray-up", [ray_up(config)])


def ray_up(config: ClusterConfig) -> dict[str, Any]:
    """The launcher's config as data."""
    _check(config)
    up = config.ray_up
    document: dict[str, Any] = {
        "cluster_name": config.name,
        "max_workers": sum(node.max for node in config.workers),
        "idle_timeout_minutes": up.idle_timeout_minutes,
        "provider": dict(up.provider),
        "auth": dict(up.auth),
    }
    if not _on_premises(config):
        assert config.head is not None  # _check
        document["available_node_types"] = {
            node.name: _node_type(config, node) for node in config.nodes
        }
        document["head_node_type"] = config.head.name
    return document | {
        "file_mounts": {TOKEN: TOKEN},
        "setup_commands": [*up.setup_commands, f'agentcy cluster ingress --out "{INGRESS}"'],
        "head_start_ray_commands": _start(
            config,
            "--head --port=6379 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ),
        "worker_start_ray_commands": _start(config, '--address="$RAY_HEAD_IP:6379"'),
    }


def _on_premises(config: ClusterConfig) -> bool:
    return config.ray_up.provider["type"] == "local"


def _check(config: ClusterConfig) -> None:
    faults: list[dict[str, str]] = []
    if config.head is None:
        faults.append({
            "path": "nodes",
            "message": "names no machines; add a group with role: head, see cluster/examples/",
        })
    if _on_premises(config):
        faults += [
            {
                "path": f"{name}.labels",
                "message": "provider local starts every node alike, without labels; drop them "
                "or use a provider with node types",
            }
            for name, (needs, _, _) in config.parts().items()
            if needs.labels
        ]
        found = config.ray_up.provider.get("worker_ips")
        addresses = len(found) if isinstance(found, list) else 0
        wanted = sum(node.max for node in config.workers)
        if addresses != wanted:
            faults.append({
                "path": "ray_up.provider.worker_ips",
                "message": f"names {addresses} machines, the groups of nodes have {wanted}; "
                "name one address for each",
            })  # fmt: skip
    else:
        faults += [
            {
                "path": f"nodes.{i}.node_config",
                "message": "is empty; say what machine the provider shall start",
            }
            for i, node in enumerate(config.nodes)
            if not node.node_config
        ]
        faults += [
            {
                "path": f"nodes.{i}.resources.{name}",
                "message": f"{amount:g}: `ray up` takes whole amounts only; round it",
            }
            for i, node in enumerate(config.nodes)
            for name, amount in node.resources.items()
            if amount != int(amount)
        ]
    if faults:
        lines = [f"{fault['path']}: {fault['message']}" for fault in faults]
        raise ConfigError(
            "this config does not describe a cluster for `ray up`:\n  " + "\n  ".join(lines),
            code="cluster_config_invalid",
            faults=faults,
        )


def _node_type(config: ClusterConfig, node: Node) -> dict[str, Any]:
    resources: dict[str, int] = {"CPU": node.cpus, "memory": usable_memory(config, node)}
    if node.gpus:
        resources["GPU"] = node.gpus
    if node.gpu_type is not None:
        resources[f"accelerator_type:{node.gpu_type}"] = 1
    worker = node.role == "worker"
    return {
        "resources": resources | {name: int(amount) for name, amount in node.resources.items()},
        "labels": node.all_labels,
        "min_workers": node.min if worker else 0,
        "max_workers": node.max if worker else 0,
        "node_config": dict(node.node_config),
    }


def _start(config: ClusterConfig, how: str) -> list[str]:
    """Stop what ran, then start Ray with the node's variables: workers inherit them."""
    variables = {"RAY_AUTH_MODE": "token", **node_environment(config)}
    exported = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    start = (
        f"set -a; . {shlex.quote(config.ray_up.environment_file)}; {exported} "
        f'RAY_SERVE_HAPROXY_BINARY_PATH="{INGRESS}/haproxy"; set +a; '
        'ulimit -n "$(ulimit -Hn)"; ray start --disable-usage-stats '
        f"--object-store-memory={config.ray.object_store_memory} {how}"
    )
    return ["ray stop", start]
