"""A Helm chart of the same manifests.

The templates are the manifests themselves; what differs between installs of one shape is a value:
the image, names of secrets, bounds of the groups of nodes, the ingress. Everything else belongs to
the cluster config, from which the chart is rendered again.
"""

from __future__ import annotations

import re
from typing import Any

from agentcy_ray import __version__
from agentcy_ray.runtime.cluster_config.model import ClusterConfig
from agentcy_ray.runtime.cluster_config.targets import Ingress
from agentcy_ray.runtime.render.kuberay import (
    check_shared,
    ingress,
    network_policy,
    ray_service,
    service_account,
)
from agentcy_ray.runtime.render.text import rendered, to_yaml

_EXAMPLE = {"host": "agentcy.example.com", "tls_secret": "agentcy-tls"}
_QUOTED = re.compile(r"'((?:[^'\n]|'')*@@(?:[^'\n]|'')*)'")
_MARK = re.compile(r"@@(.+?)@@")


def render_helm(config: ClusterConfig) -> dict[str, str]:
    """The chart's files by their path in it.

    Raises:
        ConfigError: the config names no nodes, or no stores that all pods share.
    """
    check_shared(config)
    way = config.kubernetes.ingress or Ingress.model_validate(_EXAMPLE)
    marked = config.model_copy(
        update={
            "name": "@@.Release.Name@@",
            "kubernetes": config.kubernetes.model_copy(
                update={
                    "namespace": "@@.Release.Namespace@@",
                    "image": "@@.Values.image | quote@@",
                    "image_pull_policy": "@@.Values.imagePullPolicy@@",
                    "secret": "@@.Values.secretName@@",
                    "auth_secret": "@@.Values.authSecretName@@",
                    "service_account": "@@.Values.serviceAccount.name@@",
                    "ingress": way.model_copy(update={"host": "@@.Values.ingress.host@@"}),
                }
            ),
        }
    )
    service = ray_service(marked)
    for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        values = f'(index .Values.groups "{group["groupName"]}")'
        for key, value in (
            ("replicas", "min"), ("minReplicas", "min"), ("maxReplicas", "max"),
        ):  # fmt: skip
            group[key] = f"@@{values}.{value}@@"
    # The config inside belongs to the cluster config alone.
    service["spec"]["serveConfigV2"] = ray_service(config)["spec"]["serveConfigV2"]
    way_in = ingress(marked)
    way_in["metadata"]["annotations"] = "@@toYaml .Values.ingress.annotations | nindent 4@@"
    way_in["spec"]["ingressClassName"] = "@@.Values.ingress.className@@"
    way_in["spec"]["tls"][0]["secretName"] = "@@.Values.ingress.tlsSecret@@"
    return {
        "Chart.yaml": rendered("helm", [_chart(config)]),
        "values.yaml": rendered("helm", [_values(config, way)]),
        "templates/serviceaccount.yaml": _when(
            "serviceAccount.create",
            service_account(marked)
            | {
                "metadata": service_account(marked)["metadata"]
                | {"annotations": "@@toYaml .Values.serviceAccount.annotations | nindent 4@@"}
            },
        ),
        "templates/rayservice.yaml": _template(service),
        "templates/networkpolicy.yaml": _when("networkPolicy.enabled", network_policy(marked)),
        "templates/ingress.yaml": _when("ingress.enabled", way_in),
    }


def _chart(config: ClusterConfig) -> dict[str, Any]:
    return {
        "apiVersion": "v2",
        "name": config.name,
        "description": "The Agentcy agent platform on Ray; needs KubeRay 1.6 or later.",
        "type": "application",
        "version": __version__,
        "appVersion": __version__,
        "kubeVersion": ">=1.27.0-0",
    }


def _values(config: ClusterConfig, way: Ingress) -> dict[str, Any]:
    target = config.kubernetes
    return {
        "image": target.image,
        "imagePullPolicy": target.image_pull_policy,
        "secretName": target.secret,
        "authSecretName": target.auth_secret,
        "serviceAccount": {"create": True, "name": target.service_account, "annotations": {}},
        "groups": {node.name: {"min": node.min, "max": node.max} for node in config.workers},
        "networkPolicy": {"enabled": True},
        "ingress": {
            "enabled": target.ingress is not None,
            "className": way.class_name or "nginx",
            "host": way.host,
            "tlsSecret": way.tls_secret,
            "annotations": dict(way.annotations),
        },
    }


def _template(document: dict[str, Any]) -> str:
    """A manifest whose marked values are expressions, and whose own braces are none."""
    text = to_yaml(document).replace("{{", "{{ `{{` }}")
    text = _QUOTED.sub(lambda scalar: scalar[1].replace("''", "'"), text)
    return _MARK.sub(lambda mark: f"{{{{ {mark[1]} }}}}", text)


def _when(value: str, document: dict[str, Any]) -> str:
    return f"{{{{- if .Values.{value} }}}}\n{_template(document)}{{{{- end }}}}\n"
