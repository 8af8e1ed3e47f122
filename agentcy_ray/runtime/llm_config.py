"""A model of the cluster config in the words of Ray: ``LLMConfig`` to serve it, engine arguments.

Plain data: neither Ray's LLM modules nor vLLM is imported here, which take half a minute.
"""

from __future__ import annotations

from typing import Any

from agentcy_ray.runtime.cluster_config.models import ServedModel

APP_PREFIX = "agentcy-model-"
DEPLOYMENT = "model"
"""Name of the one deployment of a model's application."""

_QUIET = {
    # Prompts and completions are never logged, and nobody is told that the engine runs.
    "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_STREAM_INTERVAL_MS = 10
"""How long tokens are gathered before they travel: an item through a Serve handle costs about a
millisecond, so that they do not travel one by one, and Ray's own 50 ms would be seen.
"""


def application_name(model: ServedModel) -> str:
    """Name of a model's Serve application."""
    return f"{APP_PREFIX}{model.name}"


def llm_config(model: ServedModel) -> dict[str, Any]:
    """Arguments of ``ray.serve.llm.LLMConfig`` that serve the model."""
    found: dict[str, Any] = {
        "model_loading_config": {"model_id": model.name, "model_source": source_of(model)},
        "engine_kwargs": engine_kwargs(model),
        "deployment_config": deployment_config(model),
        "placement_group_config": placement(model),
        "accelerator_config": {"kind": model.device},
        "runtime_env": {"env_vars": environment(model)},
        "experimental_configs": {"stream_batching_interval_ms": _STREAM_INTERVAL_MS},
    }
    if model.accelerator_type is not None:
        found["accelerator_type"] = model.accelerator_type
    if model.lora is not None:
        found["lora_config"] = {
            "dynamic_lora_loading_path": model.lora.path,
            "max_num_adapters_per_replica": model.lora.max_per_replica,
        }
    return found


def source_of(model: ServedModel) -> str:
    """Where the weights are: a folder, or a repository on Hugging Face."""
    return model.path or model.hf_id or model.name


def engine_kwargs(model: ServedModel) -> dict[str, Any]:
    """Arguments of the engine: what the section sets, then whatever it passes through."""
    found: dict[str, Any] = {
        "tensor_parallel_size": model.tensor_parallel,
        "pipeline_parallel_size": model.pipeline_parallel,
    }
    if model.device == "gpu":
        found["gpu_memory_utilization"] = model.gpu_memory_utilization
    if model.max_model_len is not None:
        found["max_model_len"] = model.max_model_len
    if model.revision is not None:
        found["revision"] = model.revision
    if model.task == "embed":
        found["runner"] = "pooling"
    if model.tool_parser is not None:
        found |= {"enable_auto_tool_choice": True, "tool_call_parser": model.tool_parser}
    if model.reasoning_parser is not None:
        found["reasoning_parser"] = model.reasoning_parser
    if model.lora is not None:
        found |= {
            "enable_lora": True,
            "max_loras": model.lora.max_per_replica,
            "max_lora_rank": model.lora.max_rank,
        }
    return found | model.engine_args


def placement(model: ServedModel) -> dict[str, Any]:
    """The placement group of a replica: one bundle a worker, the first holds the replica too."""
    worker = {"CPU": 1.0} if model.device == "cpu" else {"GPU": 1.0}
    if model.pipeline_parallel > 1:
        return {"bundle_per_worker": worker, "strategy": "PACK"}
    # The workers of one stage talk after every layer: on one node, or not at all.
    return {"bundle_per_worker": worker, "strategy": "STRICT_PACK"}


def environment(model: ServedModel) -> dict[str, str]:
    """Variables of the replicas and of the engine's processes."""
    offline = {"HF_HUB_OFFLINE": "1"} if model.path is not None else {}
    return {**_QUIET, **offline, **model.environment}


def replica_options(model: ServedModel) -> dict[str, Any]:
    """Bounds and speed of scaling, as a Serve deployment takes them."""
    bounds, speed = model.replicas, model.autoscaling
    if bounds.min == bounds.max:
        return {"num_replicas": bounds.min}
    return {
        "autoscaling_config": {
            "min_replicas": bounds.min,
            "max_replicas": bounds.max,
            "target_ongoing_requests": float(model.target_requests),
            "upscale_delay_s": speed.upscale_delay_secs,
            "downscale_delay_s": speed.downscale_delay_secs,
            "metrics_interval_s": speed.metrics_interval_secs,
            "look_back_period_s": speed.look_back_secs,
        }
    }


def deployment_config(model: ServedModel) -> dict[str, Any]:
    """Options of the deployment but for its placement, which Ray Serve LLM works out."""
    actor: dict[str, Any] = {"num_cpus": model.num_cpus}
    if model.memory:
        actor["memory"] = model.memory
    return {
        "name": DEPLOYMENT,
        # The engine queues by itself and batches what it holds, so Serve holds nothing back.
        "max_ongoing_requests": 100 * model.target_requests,
        "ray_actor_options": actor,
        # An engine that takes long over a batch is not dead.
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 60.0,
        "graceful_shutdown_timeout_s": 20.0,
        **replica_options(model),
    }
