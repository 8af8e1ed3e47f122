"""KubeRay: the RayService and what stands around it. For KubeRay 1.6 or later.

Ray's token comes from a Secret by ``authOptions``; the network policy lets the operator reach the
dashboard, the ingress reach Serve, and the cluster's pods each other, and nobody else anything.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime.cluster_config.model import ClusterConfig
from agentcy_ray.runtime.listener import is_loopback
from agentcy_ray.runtime.render.pods import HEAD_PORTS, group_spec, secret_reference
from agentcy_ray.runtime.render.serve import serve_config
from agentcy_ray.runtime.render.text import rendered, to_yaml

SHARED_STORES = {"basic": ("NEO4J_URI", "S3_BUCKET"), "advanced": ("KYMA_BASE_URL", "S3_BUCKET")}
"""By context engine."""
SHARED_SECRETS = ("DATABASE_URL", "REDIS_URL", "JWT_SECRET", "ENCRYPTION_KEY")


def render_kuberay(config: ClusterConfig) -> str:
    """All manifests as one YAML file.

    Raises:
        ConfigError: the config names no nodes, or no stores that all pods share.
    """
    return rendered("kuberay", manifests(config))


def manifests(config: ClusterConfig) -> list[dict[str, Any]]:
    """The manifests as data: service account, RayService, network policy, ingress."""
    check_shared(config)
    documents = [service_account(config), ray_service(config), network_policy(config)]
    if config.kubernetes.ingress is not None:
        documents.append(ingress(config))
    return documents


def check_shared(config: ClusterConfig) -> None:
    """Refuse a config whose pods would each open stores of their own.

    Raises:
        ConfigError: what is missing, and where to write it.
    """
    faults: list[dict[str, str]] = []
    if config.head is None:
        faults.append({
            "path": "nodes",
            "message": "names no machines; add a group with role: head, see cluster/examples/",
        })
    engine = config.environment.get("CONTEXT_ENGINE", "basic")
    faults += [
        {
            "path": f"environment.{name}",
            "message": "is needed, since pods keep nothing; set it to a store that all reach",
        }
        for name in SHARED_STORES.get(engine, ())
        if name not in config.environment
    ]
    if is_loopback(config.serve.host):
        faults.append({
            "path": "serve.host",
            "message": f"is {config.serve.host}, where no other pod reaches it; set 0.0.0.0",
        })
    faults += [
        {"path": "kubernetes.secret_keys", "message": f"lacks {name}, which all pods share; add it"}
        for name in SHARED_SECRETS
        if name not in config.kubernetes.secret_keys
    ]
    if faults:
        lines = [f"{fault['path']}: {fault['message']}" for fault in faults]
        raise ConfigError(
            "this config does not describe a Kubernetes cluster:\n  " + "\n  ".join(lines),
            code="cluster_config_invalid",
            faults=faults,
        )


def ray_service(config: ClusterConfig) -> dict[str, Any]:
    """The RayService: Serve's config and the cluster that it runs on."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": _metadata(config, config.name),
        "spec": {
            "serviceUnhealthySecondThreshold": config.kubernetes.service_unhealthy_secs,
            "deploymentUnhealthySecondThreshold": config.kubernetes.deployment_unhealthy_secs,
            "serveConfigV2": to_yaml(serve_config(config)),
            "rayClusterConfig": _cluster(config),
        },
    }


def _cluster(config: ClusterConfig) -> dict[str, Any]:
    assert config.head is not None  # check_shared
    spec: dict[str, Any] = {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", "secretName": config.kubernetes.auth_secret},
        "enableInTreeAutoscaling": any(node.max > node.min for node in config.workers),
    }
    if spec["enableInTreeAutoscaling"]:
        spec["autoscalerOptions"] = {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": config.ray_up.idle_timeout_minutes * 60,
            "resources": {
                "requests": {"cpu": "200m", "memory": "512Mi"},
                "limits": {"cpu": "500m", "memory": "512Mi"},
            },
        }
    fault_tolerance = config.ray.gcs_fault_tolerance
    if fault_tolerance is not None:
        options: dict[str, Any] = {"redisAddress": fault_tolerance.redis_address}
        if fault_tolerance.password_key is not None:
            reference = secret_reference(config.kubernetes.secret, fault_tolerance.password_key)
            options["redisPassword"] = {"valueFrom": reference}
        spec["gcsFaultToleranceOptions"] = options
    spec["headGroupSpec"] = group_spec(config, config.head)
    spec["workerGroupSpecs"] = [
        {
            "groupName": node.name,
            "replicas": node.min,
            "minReplicas": node.min,
            "maxReplicas": node.max,
            **group_spec(config, node),
        }
        for node in config.workers
    ]
    return spec


def service_account(config: ClusterConfig) -> dict[str, Any]:
    """The pods' identity; annotate it to give them the object store's role."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(config, config.kubernetes.service_account),
    }


def network_policy(config: ClusterConfig) -> dict[str, Any]:
    """Who may reach the pods."""
    ours = {"matchLabels": {"app.kubernetes.io/name": config.name}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(config, config.name),
        "spec": {
            "podSelector": ours,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": ours}]},
                {"ports": [{"protocol": "TCP", "port": config.serve.port}]},
                {
                    "from": [operator],
                    "ports": [{"protocol": "TCP", "port": HEAD_PORTS["dashboard"]}],
                },
            ],
        },
    }


def ingress(config: ClusterConfig) -> dict[str, Any]:
    """TLS on port 443, to the service that KubeRay keeps pointed at healthy pods."""
    way = config.kubernetes.ingress
    assert way is not None
    backend = {
        "service": {"name": f"{config.name}-serve-svc", "port": {"number": config.serve.port}}
    }
    document: dict[str, Any] = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": _metadata(config, config.name),
        "spec": {
            "tls": [{"hosts": [way.host], "secretName": way.tls_secret}],
            "rules": [
                {
                    "host": way.host,
                    "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
                }
            ],
        },
    }
    if way.annotations:
        document["metadata"]["annotations"] = dict(way.annotations)
    if way.class_name is not None:
        document["spec"]["ingressClassName"] = way.class_name
    return document


def _metadata(config: ClusterConfig, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": config.kubernetes.namespace,
        "labels": {"app.kubernetes.io/part-of": config.name},
    }
