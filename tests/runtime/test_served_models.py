"""Models of the cluster config: what is accepted, what Ray is told, and why one is not served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.serve.schema import ServeDeploySchema

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime.cluster_config import ClusterConfig, load_cluster_config
from agentcy_ray.runtime.cluster_config.plan import plan, shortcomings
from agentcy_ray.runtime.llm_config import llm_config
from agentcy_ray.runtime.model_fitness import doctor_checks, refusal
from agentcy_ray.runtime.render.kuberay import render_kuberay
from agentcy_ray.runtime.render.serve import serve_config

pytestmark = pytest.mark.filterwarnings("ignore:.*metrics_interval_s:DeprecationWarning")
EXAMPLE = Path(__file__).parents[2] / "cluster/examples/gpu-node.yaml"
NODES = (
    "nodes: [{name: head, role: head, cpus: 8, memory: 64Gi}, "
    "{name: gpu, cpus: 32, memory: 256Gi, gpus: 4, gpu_type: H100}]\n"
)


@pytest.fixture(scope="module")
def config() -> ClusterConfig:
    """The example of a node with eight GPUs."""
    return load_cluster_config(str(EXAMPLE))


def _config(**model: Any) -> ClusterConfig:
    return ClusterConfig.model_validate({"models": [{"name": "m", "hf_id": "a/b", **model}]})


def test_a_node_with_eight_gpus_holds_the_models_of_the_example(config: ClusterConfig) -> None:
    made = plan(config, 0)
    assert shortcomings(made) == []
    gpus = {row.part: row.gpus * row.max for row in made.parts if row.gpus}
    assert gpus == {
        "embedding": 1,
        "models.qwen3-235b": 4,
        "models.qwen3-8b": 2,
        "models.qwen3-embedding": 1,
    }
    [node] = [row for row in made.nodes if row.gpus]
    assert (node.gpus_used_at_max, node.gpus) == (8, 8)


def test_every_model_of_the_example_is_one_that_ray_takes(config: ClusterConfig) -> None:
    ours = {one.name: LLMConfig(**llm_config(one)) for one in config.models}
    large, small, pooling = ours.values()
    assert large.engine_kwargs["tensor_parallel_size"] == 4
    assert large.engine_kwargs["tool_call_parser"] == "hermes"
    assert large.engine_kwargs["enable_expert_parallel"] is True
    assert large.placement_group_config["strategy"] == "STRICT_PACK"
    assert large.accelerator_type == "H100"
    assert large.deployment_config["num_replicas"] == 1
    assert small.deployment_config["autoscaling_config"]["max_replicas"] == 2
    assert small.deployment_config["autoscaling_config"]["target_ongoing_requests"] == 64
    assert small.multiplex_config().max_num_models_per_replica == 8
    assert small.engine_kwargs["max_lora_rank"] == 32
    assert pooling.engine_kwargs["runner"] == "pooling"
    for one in ours.values():
        assert one.runtime_env["env_vars"]["RAYLLM_ENABLE_REQUEST_PROMPT_LOGS"] == "0"


def test_the_example_renders_an_application_a_model_and_none_has_a_route(
    config: ClusterConfig,
) -> None:
    schema = ServeDeploySchema.model_validate(serve_config(config))
    routes = {one.name: one.route_prefix for one in schema.applications}
    assert [name for name, route in routes.items() if route] == ["agentcy"]
    args = [one.args for one in schema.applications if one.name.startswith("agentcy-model-")]
    assert args == [{"part": "model", "name": one.name} for one in config.models]
    [service] = [d for d in yaml.safe_load_all(render_kuberay(config)) if d["kind"] == "RayService"]
    [environment] = {
        app["runtime_env"]["env_vars"]["AGENTCY_CLUSTER_CONFIG"]
        for app in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    }
    there = load_cluster_config(environment)
    assert there.models == config.models


def test_a_model_on_a_cpu_asks_for_no_gpu() -> None:
    [model] = _config(device="cpu", tensor_parallel=2, num_cpus=1).models
    given = llm_config(model)
    assert given["accelerator_config"] == {"kind": "cpu"}
    assert given["placement_group_config"]["bundle_per_worker"] == {"CPU": 1.0}
    assert "gpu_memory_utilization" not in given["engine_kwargs"]
    assert (model.needs().gpus, model.needs().num_cpus) == (0, 3)


@pytest.mark.parametrize(
    ("model", "path", "fix"),
    [
        ("{name: m}", "models.0", "hf_id or path"),
        ("{name: m, hf_id: a/b, path: /x}", "models.0", "hf_id or path"),
        ("{name: 'a:b', hf_id: a/b}", "models.0.name", "pattern"),
        ("{name: m, hf_id: a/b, tensor_parallel: 8}", "models.0.tensor_parallel",
         "tensor_parallel: 4 and pipeline_parallel: 2"),
        ("{name: m, hf_id: a/b, accelerator_type: L4}", "models.0.accelerator_type", "H100"),
        ("{name: m, hf_id: a/b, engine_args: {max_model_len: 8}}", "models.0.engine_args",
         "max_model_len"),
        ("{name: m, hf_id: a/b, environment: {HF_TOKEN: x}}", "models.0.environment",
         "kubernetes.secret_keys"),
        ("{name: m, hf_id: a/b, task: embed, tool_parser: x}", "models.0", "drop them"),
        ("{name: m, hf_id: a/b, replicas: {min: 3, max: 1}}", "models.0.replicas", "raise max"),
        ("{name: m, hf_id: a/b}, {name: m, hf_id: a/b}", "models.1.name", "differently"),
        ("{name: m, hf_id: a/b, gpu_utilisation: 1}", "models.0.gpu_utilisation",
         "gpu_memory_utilization"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_work_is_named_with_the_way_out(
    model: str, path: str, fix: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{NODES}models: [{model}]\n")
    with pytest.raises(ConfigError) as refused:
        load_cluster_config(str(file))
    faults = {one["path"]: one["message"] for one in refused.value.details["faults"]}
    assert fix in faults[path]


def test_a_model_without_gpus_in_the_cluster_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "nodes: [{name: head, role: head, cpus: 8, memory: 64Gi}]\n"
        "models: [{name: m, hf_id: a/b}]\n"
    )
    with pytest.raises(ConfigError, match="needs a GPU and no group of nodes has one"):
        load_cluster_config(str(file))
    here = shortcomings(plan(_config(), 64 * 2**30, machine_gpus=0))
    assert [fault["path"] for fault in here] == ["models.m"]
    assert shortcomings(plan(_config(), 64 * 2**30, machine_gpus=1)) == []


def test_why_a_model_is_not_served_says_what_to_do() -> None:
    [gpu] = _config(tensor_parallel=2).models
    [cpu] = _config(device="cpu").models
    assert "pip install 'agentcy-ray[gpu]'" in (refusal(gpu, vllm=False, gpus=8) or "")
    assert "needs 2 GPU and this cluster has 1" in (refusal(gpu, vllm=True, gpus=1) or "")
    assert refusal(gpu, vllm=True, gpus=2) is None
    assert "make test-vllm" in (refusal(cpu, vllm=False, gpus=0) or "")
    assert refusal(cpu, vllm=True, gpus=0) is None
    [row] = doctor_checks([gpu])
    assert row.name == "model m"
    assert row.ok == (row.remedy == "")
    assert doctor_checks([]) == []


def test_the_config_of_processes_elsewhere_carries_the_models() -> None:
    from agentcy_ray.runtime.cluster_config.load import for_processes

    config = _config(engine_args={"seed": 1})
    there = load_cluster_config(orjson.dumps(for_processes(config)).decode())
    assert there.models == config.models
    assert there.parts() == config.parts()
