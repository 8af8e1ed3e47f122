"""The one cluster config."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime.cluster_config import ClusterConfig, load_cluster_config

SHIPPED = Path(__file__).parents[2] / "cluster" / "agentcy.yaml"


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    assert load_cluster_config(str(SHIPPED)) == ClusterConfig() == load_cluster_config(None)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sesion_hosts: {min: 2}", "sesion_hosts"),
        ("api: {replicas: {min: 3, max: 1}}", "api.replicas"),
        ("embedding: {threads: many}", "embedding.threads"),
        ("[1, 2", "not YAML"),
    ],
)
def test_a_fault_in_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "agentcy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_cluster_config(str(path))


def test_a_missing_file_is_a_fault_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AGENTCY_CLUSTER_CONFIG"):
        load_cluster_config(str(tmp_path / "absent.yaml"))
