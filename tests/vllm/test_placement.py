"""Where Ray Serve LLM, with the real vLLM beside it, puts the replicas of models for GPUs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agentcy_ray.runtime.cluster_config import ClusterConfig
from agentcy_ray.runtime.llm_config import llm_config

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
CONFIG = ClusterConfig.model_validate({
    "models": [
        {"name": "chat", "hf_id": "Qwen/Qwen3-8B", "tensor_parallel": 2},
        {"name": "embed", "hf_id": "BAAI/bge-m3", "task": "embed"},
    ]
})
_OPTIONS = """
import json, sys
from agentcy_ray.serve.model_server import deployment_options
options = [deployment_options(config)["placement_group_bundles"] for config in json.load(sys.stdin)]
print(json.dumps(options))
"""


@pytest.mark.requirement("LLM-10", "EMB-03")
def test_replicas_of_models_for_gpus_are_placed_on_gpus_alone() -> None:
    asked = json.dumps([llm_config(model) for model in CONFIG.models])
    # A process of its own: vLLM would stay in this one.
    done = subprocess.run(
        [sys.executable, "-c", _OPTIONS],
        input=asked, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    chat, embed = json.loads(done.stdout.splitlines()[-1])
    assert [bundle["GPU"] for bundle in chat] == [1.0, 1.0]
    assert [bundle["GPU"] for bundle in embed] == [1.0]
