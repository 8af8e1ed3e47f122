"""What will run where, and whether it fits."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime.cluster_config import read_cluster_config
from agentcy_ray.runtime.cluster_config.plan import Plan, plan, shortcomings

EXAMPLES = Path(__file__).parents[2] / "cluster" / "examples"
GIB = 2**30


def _plan(calls: int | None = None, source: str = str(EXAMPLES / "gpu.yaml")) -> Plan:
    return plan(read_cluster_config(source, calls_per_minute=calls), 8 * GIB)


def test_a_plan_places_every_part_where_its_labels_and_gpus_are() -> None:
    made = _plan()
    assert made.fits
    assert shortcomings(made) == []
    where = {row.part: set(row.at_max) for row in made.parts}
    assert where.pop("embedding") == {"gpu-l4"}
    assert set().union(*where.values()) == {"cpu"}


def test_a_group_grows_from_its_fewest_nodes_as_parts_do() -> None:
    nodes = {row.group: (row.nodes_at_min, row.nodes_at_max) for row in _plan().nodes}
    assert nodes["cpu"][0] < nodes["cpu"][1]
    assert nodes["gpu-l4"] == (2, 2)


def test_what_is_asked_of_a_group_never_passes_what_it_has() -> None:
    for row in _plan().nodes:
        assert row.cpus_used_at_max <= row.nodes_at_max * row.cpus
        assert row.memory_used_at_max <= row.nodes_at_max * row.memory
        assert row.gpus_used_at_max <= row.nodes_at_max * row.gpus


@pytest.mark.requirement("CLI-04", "CLU-03")
def test_another_target_changes_hosts_executors_and_api_replicas() -> None:
    few, many = _plan(200_000), _plan(800_000)
    most = [{row.part: row.max for row in made.parts} for made in (few, many)]
    for part in ("api", "agent", "session_hosts"):
        assert most[0][part] < most[1][part]
        assert most[1][part] == {row.part: row.needed for row in many.hot_path}[part]


def test_more_than_the_nodes_hold_is_said_with_the_part_and_the_way_out() -> None:
    made = _plan(5_000_000)
    assert not made.fits
    assert made.fits_at_min
    found = {fault["path"]: fault["message"] for fault in shortcomings(made)}
    assert found
    assert all("raise max of a group" in message for message in found.values())


def test_a_target_beyond_fixed_bounds_is_said_though_everything_fits() -> None:
    made = plan(read_cluster_config(None, calls_per_minute=500_000), 8 * GIB)
    assert made.fits
    assert {row.part for row in made.hot_path if not row.enough} == {
        "api", "agent", "session_hosts",
    }  # fmt: skip
    assert "or write auto" in shortcomings(made)[0]["message"]


def test_a_target_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hot_path\.calls_per_minute"):
        read_cluster_config(None, calls_per_minute=0)


def test_fractions_of_a_gpu_share_one() -> None:
    config = {
        "nodes": [{"name": "head", "role": "head", "cpus": 4, "memory": "8Gi", "gpus": 1}],
        "embedding": {"actors": {"min": 3, "max": 3}, "num_gpus": 0.5},
    }
    made = _plan(source=orjson.dumps(config).decode())
    [embedding] = [row for row in made.parts if row.part == "embedding"]
    assert (embedding.at_max, embedding.unplaced_at_max) == ({"head": 2}, 1)
