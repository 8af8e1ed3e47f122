"""The one cluster config: what is accepted, and how what is not is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import yaml

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime.cluster_config import (
    ClusterConfig,
    load_cluster_config,
    read_cluster_config,
)
from agentcy_ray.runtime.cluster_config.load import for_processes, json_schema

CLUSTER = Path(__file__).parents[2] / "cluster"
SHIPPED = CLUSTER / "agentcy.yaml"
FILES = [SHIPPED, *sorted((CLUSTER / "examples").glob("*.yaml"))]
HEAD = "nodes: [{name: head, role: head, cpus: 4, memory: 8Gi}]\n"


def _faults(tmp_path: Path, text: str) -> dict[str, str]:
    """Path and message of each fault."""
    path = tmp_path / "agentcy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_cluster_config(str(path))
    found: list[dict[str, str]] = refused.value.details["faults"]
    assert all(fault["path"] in refused.value.message for fault in found)
    return {fault["path"]: fault["message"] for fault in found}


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    assert load_cluster_config(str(SHIPPED)) == ClusterConfig() == load_cluster_config(None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_is_valid_also_by_the_schema(path: Path) -> None:
    load_cluster_config(str(path))
    jsonschema_rs.validator_for(json_schema()).validate(yaml.safe_load(path.read_text()))


def test_the_schema_beside_the_file_is_that_of_the_model() -> None:
    kept = orjson.loads((CLUSTER / "agentcy.schema.json").read_bytes())
    assert kept == json_schema(), "run `agentcy cluster schema --out cluster/agentcy.schema.json`"


@pytest.mark.requirement("CLU-04")
@pytest.mark.parametrize(
    ("text", "path", "fix"),
    [
        ("sesion_hosts: {min: 2}", "sesion_hosts", "session_hosts"),
        ("session_hosts: {idle_sec: 2}", "session_hosts.idle_sec", "idle_secs"),
        (HEAD.replace("cpus", "cpu"), "nodes.0.cpu", "cpus"),
        ("kubernetes: {ingress: {hots: a}}", "kubernetes.ingress.hots", "host"),
        ("colour: blue", "colour", "session_hosts"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(
    tmp_path: Path, text: str, path: str, fix: str
) -> None:
    assert fix in _faults(tmp_path, text)[path]


@pytest.mark.parametrize(
    ("text", "path", "fix"),
    [
        ("api: {replicas: {min: 3, max: 1}}", "api.replicas", "raise max"),
        ("embedding: {threads: many}", "embedding.threads", "integer"),
        ("embedding: {num_gpus: 1.5}", "embedding", "write 2"),
        ("ingest: {actors: {min: 1, max: 2}}", "ingest.actors", "same number"),
        ("embedding: {actors: auto}", "embedding.actors", ""),
        ("ray: {object_store_memory: 5Mi}", "ray.object_store_memory", "83886080"),
        ("session_hosts: {memory: lots}", "session_hosts.memory", "Mi"),
        ("api: {autoscaling: {look_back_secs: 0.5}}", "api.autoscaling", "raise it"),
        ("environment: {LOG_LEVLE: debug}", "environment.LOG_LEVLE", "LOG_LEVEL"),
        ("environment: {DATABASE_URL: x}", "environment.DATABASE_URL", "Secret"),
        ("ray_up: {provider: {region: x}}", "ray_up", "type"),
        ("[1, 2]", "the file", ""),
    ],
)
def test_a_wrong_value_is_named_with_the_way_out(
    tmp_path: Path, text: str, path: str, fix: str
) -> None:
    assert fix in _faults(tmp_path, text)[path]


@pytest.mark.parametrize(
    ("text", "path", "fix"),
    [
        ("nodes: [{name: a, cpus: 1, memory: 1Gi}]", "nodes", "role: head"),
        (HEAD + "embedding: {num_gpus: 1}", "embedding", "set gpus"),
        (HEAD + "agent: {num_cpus: 9}", "agent", "(4); lower it"),
        (HEAD + "ingest: {memory: 9Gi}", "ingest", "(8Gi); lower it"),
        (HEAD + "api: {labels: {pool: x}}", "api", "add them"),
        (HEAD + "session_hosts: {resources: {vpn: 1}}", "session_hosts", "'vpn'"),
        ("serve: {host: 0.0.0.0}", "serve.host", "TLS proxy"),
        (HEAD + "limits: {cpus: 2}", "limits.cpus", "raise the limit"),
        (HEAD + "ray: {object_store_memory: 5Gi}", "nodes.0.memory", "lower it"),
        (HEAD.replace("cpus: 4", "cpus: 4, gpu_type: L4"), "nodes.0", "set gpus"),
        (HEAD.replace("cpus: 4", "cpus: 4, max: 2"), "nodes.0", "max: 1"),
        (
            "nodes: [{name: head, role: head, cpus: 4, memory: 8Gi}, "
            "{name: head, cpus: 4, memory: 8Gi}]",
            "nodes.1.name",
            "differently",
        ),
    ],
)
def test_a_combination_that_cannot_work_is_named_with_the_way_out(
    tmp_path: Path, text: str, path: str, fix: str
) -> None:
    assert fix in _faults(tmp_path, text)[path]


def test_all_faults_of_a_file_are_told_together(tmp_path: Path) -> None:
    text = HEAD + "agent: {num_cpus: 9}\nembedding: {num_gpus: 1}\nlimits: {cpus: 2}"
    assert set(_faults(tmp_path, text)) == {"agent", "embedding", "limits.cpus"}


def test_what_is_no_yaml_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "agentcy.yaml"
    path.write_text("[1, 2")
    with pytest.raises(ConfigError, match="not YAML"):
        load_cluster_config(str(path))


def test_a_missing_file_is_a_fault_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AGENTCY_CLUSTER_CONFIG"):
        load_cluster_config(str(tmp_path / "absent.yaml"))


def test_processes_elsewhere_get_the_same_parts_without_a_file() -> None:
    config = load_cluster_config(str(CLUSTER / "examples" / "gpu.yaml"))
    there = load_cluster_config(orjson.dumps(for_processes(config)).decode())
    assert there.parts() == config.parts()
    assert there.session_hosts.target_in_flight == 256
    assert there.nodes == ()


@pytest.mark.requirement("CLU-03")
@pytest.mark.parametrize(("calls", "hosts", "replicas"), [(10_000, 1, 1), (600_000, 5, 10)])
def test_auto_follows_the_target_of_the_hot_path(calls: int, hosts: int, replicas: int) -> None:
    parts: dict[str, Any] = {
        "api": {"replicas": "auto"},
        "agent": {"replicas": {"min": 1, "max": "auto"}},
        "session_hosts": {"min": 1, "max": "auto"},
    }
    config = read_cluster_config(orjson.dumps(parts).decode(), calls_per_minute=calls)
    assert config.session_hosts.max == hosts
    assert (config.api.replicas.min, config.api.replicas.max) == (replicas, replicas)
    assert config.agent.replicas.max == replicas
