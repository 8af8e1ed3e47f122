"""Pods of a Ray cluster on Kubernetes: one container, no state, secrets by reference."""

from __future__ import annotations

from typing import Any

import orjson

from agentcy_ray.runtime.cluster_config.model import ClusterConfig
from agentcy_ray.runtime.cluster_config.nodes import Node
from agentcy_ray.runtime.cluster_config.plan import usable_memory
from agentcy_ray.runtime.cluster_config.units import quantity
from agentcy_ray.runtime.render.environment import node_environment

STATE_DIR = "/tmp/agentcy"  # noqa: S108 - an emptyDir of the pod, nobody else's
INGRESS = "/opt/agentcy/ingress/haproxy"
"""Where the image keeps what `agentcy cluster ingress` wrote."""
RAYLET_HEALTH = {"path": "/api/local_raylet_healthz", "port": 52365}
"""Answered by each node's agent without the token."""
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265}
METRICS_PORT = 8080


def group_spec(config: ClusterConfig, node: Node) -> dict[str, Any]:
    """One group: how Ray starts on its nodes, and the pod around it."""
    parameters = {
        "num-cpus": str(node.cpus),
        "memory": str(usable_memory(config, node)),
        "object-store-memory": str(config.ray.object_store_memory),
        "metrics-export-port": str(METRICS_PORT),
    }
    if node.gpus:
        parameters["num-gpus"] = str(node.gpus)
    if node.resources:
        # The operator puts the value into a shell command as it stands.
        parameters["resources"] = orjson.dumps(orjson.dumps(node.resources).decode()).decode()
    if node.role == "head":
        # The operator deploys through the dashboard; the token and the network policy guard it.
        parameters["dashboard-host"] = "0.0.0.0"
    return {
        "labels": node.all_labels,
        "rayStartParams": parameters,
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/name": config.name}},
            "spec": _pod(config, node),
        },
    }


def _pod(config: ClusterConfig, node: Node) -> dict[str, Any]:
    target = config.kubernetes
    pod: dict[str, Any] = {
        "serviceAccountName": target.service_account,
        "automountServiceAccountToken": node.role == "head",  # its autoscaler asks for pods
        "terminationGracePeriodSeconds": int(config.serve.drain_secs) + 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if node.role == "head":
        pod["initContainers"] = [_schema(config)]
    pod["containers"] = [_ray(config, node)]
    pod["volumes"] = [
        {
            "name": "shm",
            "emptyDir": {
                "medium": "Memory", "sizeLimit": quantity(config.ray.object_store_memory * 5 // 4),
            },
        },
        {"name": "scratch", "emptyDir": {}},
    ]  # fmt: skip
    if node.node_selector:
        pod["nodeSelector"] = node.node_selector
    if node.gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    return pod


def _schema(config: ClusterConfig) -> dict[str, Any]:
    """Brings the stores up to this version before Ray starts."""
    return {
        "name": "migrate",
        "image": config.kubernetes.image,
        "imagePullPolicy": config.kubernetes.image_pull_policy,
        "command": ["agentcy", "migrate", "run"],
        "env": [*_plain(config.environment), *_secrets(config)],
        "resources": _resources({"cpu": "500m", "memory": "1Gi"}),
        "securityContext": _locked_down(),
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108
    }


def _ray(config: ClusterConfig, node: Node) -> dict[str, Any]:
    amounts: dict[str, Any] = {"cpu": str(node.cpus), "memory": quantity(node.memory)}
    if node.gpus:
        amounts["nvidia.com/gpu"] = str(node.gpus)
    ports = {"serve": config.serve.port, "metrics": METRICS_PORT}
    if node.role == "head":
        ports = {**HEAD_PORTS, **ports}
    return {
        "name": f"ray-{node.role}",
        "image": config.kubernetes.image,
        "imagePullPolicy": config.kubernetes.image_pull_policy,
        "env": [
            *_plain({"RAY_SERVE_HAPROXY_BINARY_PATH": INGRESS, **node_environment(config)}),
            *_secrets(config),
        ],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": _resources(amounts),
        **_probes(config, node),
        "securityContext": _locked_down(),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _probes(config: ClusterConfig, node: Node) -> dict[str, Any]:
    """A head is ready when Ray is; a worker, when Serve answers on it, so that it gets traffic.

    The application is deployed only once the head is ready, which therefore cannot wait for it.
    """
    ray = {"httpGet": RAYLET_HEALTH}
    serve = {"httpGet": {"path": "/-/healthz", "port": config.serve.port}}
    return {
        "startupProbe": {**ray, "periodSeconds": 5, "failureThreshold": 60, "timeoutSeconds": 5},
        "readinessProbe": {
            **(ray if node.role == "head" else serve),
            "periodSeconds": 5, "failureThreshold": 3, "timeoutSeconds": 5,
        },
        "livenessProbe": {**ray, "periodSeconds": 10, "failureThreshold": 12, "timeoutSeconds": 5},
    }  # fmt: skip


def _plain(values: dict[str, str]) -> list[dict[str, Any]]:
    given = {"AGENTCY_STATE_DIR": STATE_DIR, **values}
    return [{"name": name, "value": value} for name, value in given.items()]


def _secrets(config: ClusterConfig) -> list[dict[str, Any]]:
    return [
        {"name": key, "valueFrom": secret_reference(config.kubernetes.secret, key)}
        for key in config.kubernetes.secret_keys
    ]


def secret_reference(name: str, key: str) -> dict[str, Any]:
    """Where the value of a variable lies."""
    return {"secretKeyRef": {"name": name, "key": key}}


def _resources(amounts: dict[str, Any]) -> dict[str, Any]:
    return {"requests": amounts, "limits": amounts}


def _locked_down() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
