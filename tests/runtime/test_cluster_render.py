"""The one cluster config as Serve, Kubernetes, Helm and ``ray up`` read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime.cluster_config import ClusterConfig, load_cluster_config
from agentcy_ray.runtime.render.helm import render_helm
from agentcy_ray.runtime.render.kuberay import render_kuberay
from agentcy_ray.runtime.render.ray_up import render_ray_up
from agentcy_ray.runtime.render.serve import render_serve
from tests.runtime import helm
from tests.runtime.kubernetes_fields import KINDS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*metrics_interval_s:DeprecationWarning")
FILES = [ROOT / "cluster" / "agentcy.yaml", *sorted((ROOT / "cluster/examples").glob("*.yaml"))]


@pytest.fixture(scope="module")
def config() -> ClusterConfig:
    """The example that renders to every target."""
    return load_cluster_config(str(ROOT / "cluster/examples/gpu.yaml"))


def _check(documents: list[Any]) -> dict[str, Any]:
    """Manifests by kind, each checked field by field."""
    found: dict[str, Any] = {}
    for document in documents:
        jsonschema_rs.validator_for(KINDS[document["kind"]]).validate(document)
        assert document["kind"] not in found
        found[document["kind"]] = document
    return found


@pytest.mark.requirement("CLU-04")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_config_renders_to_a_serve_config_that_serve_takes(path: Path) -> None:
    loaded = load_cluster_config(str(path))
    schema = ServeDeploySchema.model_validate(yaml.safe_load(render_serve(loaded)))
    deployments = {one.name: one for app in schema.applications for one in app.deployments}
    models = {"model"} if loaded.models else set()
    assert set(deployments) == {"api", "agent"} | models
    for name, bounds in (("api", loaded.api.replicas), ("agent", loaded.agent.replicas)):
        scaling: Any = deployments[name].autoscaling_config
        if bounds.min == bounds.max:
            assert deployments[name].num_replicas == bounds.min
        else:
            assert (scaling["min_replicas"], scaling["max_replicas"]) == (bounds.min, bounds.max)


@pytest.mark.requirement("CLU-04", "DEP-05")
def test_kuberay_manifests_have_only_known_fields_and_keep_no_state(config: ClusterConfig) -> None:
    found = _check(list(yaml.safe_load_all(render_kuberay(config))))
    assert set(found) == {"ServiceAccount", "RayService", "NetworkPolicy", "Ingress"}
    spec = found["RayService"]["spec"]
    ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    cluster = spec["rayClusterConfig"]
    assert cluster["authOptions"]["mode"] == "token"
    bounds = {g["groupName"]: (g["minReplicas"], g["maxReplicas"])
              for g in cluster["workerGroupSpecs"]}  # fmt: skip
    assert bounds == {node.name: (node.min, node.max) for node in config.workers}
    # Only whoever serves gets traffic; the head is ready before there is an application.
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    paths = [
        pod["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"]
        for pod in pods
    ]
    assert paths == ["/api/local_raylet_healthz", "/-/healthz", "/-/healthz"]
    assert found["Ingress"]["spec"]["tls"][0]["hosts"] == ["agentcy.example.com"]


def test_secrets_are_in_kubernetes_by_reference_only(config: ClusterConfig) -> None:
    [service] = [d for d in yaml.safe_load_all(render_kuberay(config)) if d["kind"] == "RayService"]
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    for container in (*head["containers"], *head["initContainers"]):
        variables = {one["name"]: one for one in container["env"]}
        for key in config.kubernetes.secret_keys:
            assert set(variables[key]) == {"name", "valueFrom"}
    assert not set(config.kubernetes.secret_keys) & set(service["spec"]["serveConfigV2"].split())


def test_the_chart_gives_the_manifests_that_kuberay_gets(config: ClusterConfig) -> None:
    plain = _check(list(yaml.safe_load_all(render_kuberay(config))))
    chart = _check(helm.template(render_helm(config), config.name, config.kubernetes.namespace))
    for found in (plain, chart):
        found["ServiceAccount"]["metadata"].pop("annotations", None)
    assert chart == plain


@pytest.mark.requirement("DEP-05")
def test_values_of_the_chart_change_what_differs_between_installs(config: ClusterConfig) -> None:
    files = render_helm(config)
    assert yaml.safe_load(files["Chart.yaml"])["kubeVersion"] == ">=1.27.0-0"
    found = _check(
        helm.template(
            files, "prod", "tools",
            image="registry.example.com/other:2", secretName="vault",
            groups={"cpu": {"min": 3, "max": 5}}, ingress={"enabled": False},
        )
    )  # fmt: skip
    assert set(found) == {"ServiceAccount", "RayService", "NetworkPolicy"}
    service = found["RayService"]
    assert (service["metadata"]["name"], service["metadata"]["namespace"]) == ("prod", "tools")
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert (group["minReplicas"], group["maxReplicas"]) == (3, 5)
    container = group["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example.com/other:2"
    sources = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one]
    assert {source["name"] for source in sources} == {"vault"}


@pytest.mark.parametrize("name", ["gpu", "two-node"])
def test_the_launcher_takes_what_is_rendered_for_it(name: str) -> None:
    loaded = load_cluster_config(str(ROOT / "cluster" / "examples" / f"{name}.yaml"))
    written = yaml.safe_load(render_ray_up(loaded))
    prepared = prepare_config(written)
    validate_config(prepared)
    assert prepared["max_workers"] == sum(node.max for node in loaded.workers)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in written[commands][-1]


def test_a_config_without_machines_or_shared_stores_is_no_kubernetes_cluster() -> None:
    with pytest.raises(ConfigError) as refused:
        render_kuberay(ClusterConfig())
    paths = {fault["path"] for fault in refused.value.details["faults"]}
    assert paths == {"nodes", "serve.host", "environment.NEO4J_URI", "environment.S3_BUCKET"}


def test_pods_that_share_the_advanced_engine_need_a_kyma_and_no_graph_server(
    config: ClusterConfig,
) -> None:
    kept = {name: value for name, value in config.environment.items() if name != "NEO4J_URI"}
    advanced = config.model_copy(update={"environment": kept | {"CONTEXT_ENGINE": "advanced"}})
    with pytest.raises(ConfigError) as refused:
        render_kuberay(advanced)
    assert [fault["path"] for fault in refused.value.details["faults"]] == [
        "environment.KYMA_BASE_URL"
    ]
    advanced.environment["KYMA_BASE_URL"] = "http://kyma:8080"
    assert "KYMA_BASE_URL" in render_kuberay(advanced)


def test_the_launcher_is_not_asked_for_what_its_provider_lacks(config: ClusterConfig) -> None:
    local = {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    changed = config.model_copy(
        update={"ray_up": config.ray_up.model_copy(update={"provider": local})}
    )
    with pytest.raises(ConfigError) as refused:
        render_ray_up(changed)
    paths = {fault["path"] for fault in refused.value.details["faults"]}
    assert paths == {
        "ray_up.provider.worker_ips", "api.labels", "agent.labels", "session_hosts.labels",
        "ingest.labels",
    }  # fmt: skip


def test_the_files_under_deployments_are_those_of_the_example(config: ClusterConfig) -> None:
    chart = {f"helm/agentcy/{name}": text for name, text in render_helm(config).items()}
    rendered = {
        "serve.yaml": render_serve(config),
        "kuberay/agentcy.yaml": render_kuberay(config),
        "ray-up.yaml": render_ray_up(config),
        **chart,
    }
    stale = [
        name for name, text in rendered.items()
        if (ROOT / "deployments" / name).read_text() != text
    ]  # fmt: skip
    assert not stale, "render them again from cluster/examples/gpu.yaml: see deployments/README.md"
