"""Fields of KubeRay 1.6 and Kubernetes 1.27 that our manifests use, and their rules, as schemas.

Unknown fields are refused, as an API server with strict validation does. The rules beyond types
are those that KubeRay's operator applies when it takes a RayService in.
"""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
NAME: dict[str, Any] = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}
PORT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 65535}
QUANTITY: dict[str, Any] = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|k|M|G|Ki|Mi|Gi)?$"}
QUANTITIES: dict[str, Any] = {"type": "object", "additionalProperties": QUANTITY}
LABELS: dict[str, Any] = {
    "type": "object",
    "propertyNames": {"pattern": r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"},
    "additionalProperties": {"pattern": r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"},
}


def record(*required: str, **fields: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def many(of: dict[str, Any]) -> dict[str, Any]:
    """A list that is not empty."""
    return {"type": "array", "items": of, "minItems": 1}


SECRET = record("secretKeyRef", secretKeyRef=record("name", "key", name=NAME, key=TEXT))
VARIABLE = {
    **record("name", name=TEXT, value={"type": "string"}, valueFrom=SECRET),
    "oneOf": [{"required": ["value"]}, {"required": ["valueFrom"]}],
}
PROBE = record(
    "httpGet",
    httpGet=record("path", "port", path={"pattern": "^/"}, port=PORT),
    periodSeconds=COUNT, failureThreshold=COUNT, timeoutSeconds=COUNT,
)  # fmt: skip
RESOURCES = record("requests", "limits", requests=QUANTITIES, limits=QUANTITIES)
CONTAINER = record(
    "name", "image", "resources", "env",
    name=NAME, image=TEXT, imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    command=many(TEXT), env=many(VARIABLE),
    ports=many(record("name", "containerPort", containerPort=PORT, name={
        "type": "string", "pattern": "^[a-z0-9-]{1,15}$",
    })),
    resources=RESOURCES, startupProbe=PROBE, readinessProbe=PROBE, livenessProbe=PROBE,
    securityContext=record(
        allowPrivilegeEscalation={"const": False},
        capabilities=record("drop", drop={"const": ["ALL"]}),
    ),
    volumeMounts=many(record("name", "mountPath", name=NAME, mountPath={"pattern": "^/"})),
)  # fmt: skip
# A pod's only volumes are empty at its start: nothing is kept in it.
VOLUME = record(
    "name", "emptyDir",
    name=NAME, emptyDir=record(medium={"const": "Memory"}, sizeLimit=QUANTITY),
)  # fmt: skip
POD = record(
    "metadata", "spec",
    metadata=record("labels", labels=LABELS),
    spec=record(
        "containers", "serviceAccountName",
        serviceAccountName=NAME, automountServiceAccountToken={"type": "boolean"},
        terminationGracePeriodSeconds=COUNT,
        securityContext=record(
            runAsNonRoot={"const": True}, runAsUser={"type": "integer", "minimum": 1},
            fsGroup=COUNT, seccompProfile=record("type", type={"const": "RuntimeDefault"}),
        ),
        initContainers=many(CONTAINER), containers=many(CONTAINER), volumes=many(VOLUME),
        nodeSelector=LABELS,
        tolerations=many(record("key", "operator", key=TEXT, operator={"const": "Exists"})),
    ),
)  # fmt: skip
# The operator refuses labels among the start parameters, and resources in both places.
PARAMETERS = {**TEXTS, "not": {"anyOf": [{"required": ["labels"]}, {"required": ["address"]}]}}
GROUP = {"labels": LABELS, "rayStartParams": PARAMETERS, "template": POD}
CLUSTER = record(
    "rayVersion", "authOptions", "headGroupSpec",
    rayVersion={"type": "string", "pattern": r"^2\.(5[2-9]|[6-9]\d)\.\d+$"},
    authOptions=record("mode", "secretName", mode={"const": "token"}, secretName=NAME),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=record(
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=COUNT, resources=RESOURCES,
    ),
    gcsFaultToleranceOptions=record(
        "redisAddress", redisAddress=TEXT, redisPassword=record("valueFrom", valueFrom=SECRET)
    ),
    headGroupSpec=record("rayStartParams", "template", **GROUP),
    workerGroupSpecs=many(record(
        "groupName", "minReplicas", "maxReplicas", "rayStartParams", "template",
        groupName=NAME, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, **GROUP,
    )),
)  # fmt: skip
METADATA = record(
    "name", "namespace",
    name={**NAME, "maxLength": 41}, namespace=NAME, labels=LABELS,
    annotations={"anyOf": [TEXTS, {"type": "object", "maxProperties": 0}]},
)  # fmt: skip


def manifest(version: str, kind: str, **fields: Any) -> dict[str, Any]:
    """One kind of manifest."""
    return record(
        "apiVersion", "kind", "metadata", *fields,
        apiVersion={"const": version}, kind={"const": kind}, metadata=METADATA, **fields,
    )  # fmt: skip


POD_SELECTOR = record("matchLabels", matchLabels=LABELS)
KINDS: dict[str, dict[str, Any]] = {
    "ServiceAccount": manifest("v1", "ServiceAccount"),
    "RayService": manifest(
        "ray.io/v1", "RayService",
        spec=record(
            "serveConfigV2", "rayClusterConfig",
            serviceUnhealthySecondThreshold=COUNT, deploymentUnhealthySecondThreshold=COUNT,
            serveConfigV2=TEXT, rayClusterConfig=CLUSTER,
        ),
    ),
    "NetworkPolicy": manifest(
        "networking.k8s.io/v1", "NetworkPolicy",
        spec=record(
            "podSelector", "policyTypes", "ingress",
            podSelector=POD_SELECTOR, policyTypes={"const": ["Ingress"]},
            ingress=many({
                **record(
                    ports=many(record("port", port=PORT, protocol={"const": "TCP"})),
                    **{"from": many(record(
                        podSelector=POD_SELECTOR, namespaceSelector={"const": {}},
                    ))},
                ),
            }),
        ),
    ),
    "Ingress": manifest(
        "networking.k8s.io/v1", "Ingress",
        spec=record(
            "rules", "tls",
            ingressClassName=NAME,
            tls=many(record("hosts", "secretName", hosts=many(TEXT), secretName=NAME)),
            rules=many(record("host", "http", host=TEXT, http=record("paths", paths=many(record(
                "path", "pathType", "backend", path={"const": "/"}, pathType={"const": "Prefix"},
                backend=record("service", service=record("name", "port", name=NAME, port=record(
                    "number", number=PORT,
                ))),
            ))))),
        ),
    ),
}  # fmt: skip
