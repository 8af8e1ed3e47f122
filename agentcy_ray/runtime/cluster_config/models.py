"""Language and embedding models that this cluster serves itself: vLLM by way of Ray Serve LLM."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from agentcy_ray.runtime.cluster_config.nodes import LabelKey, LabelValue, Node
from agentcy_ray.runtime.cluster_config.parts import Autoscaling, Needs
from agentcy_ray.runtime.cluster_config.units import Section, Size

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
"""What follows ``local:`` in a model's reference; no colon, which begins an adapter's name."""

OWNED: dict[str, str] = {
    "model": "hf_id or path",
    "served_model_name": "name",
    "revision": "revision",
    "tensor_parallel_size": "tensor_parallel",
    "pipeline_parallel_size": "pipeline_parallel",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "max_model_len": "max_model_len",
    "enable_lora": "lora",
    "max_loras": "lora.max_per_replica",
    "max_lora_rank": "lora.max_rank",
    "tool_call_parser": "tool_parser",
    "enable_auto_tool_choice": "tool_parser",
    "reasoning_parser": "reasoning_parser",
    "distributed_executor_backend": "tensor_parallel and pipeline_parallel",
}
"""Arguments of the engine that a key of this section sets."""
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")


class ModelReplicas(Section):
    """How many replicas of a model; 0 at the fewest frees its GPUs while nobody asks."""

    min: int = Field(default=1, ge=0)
    max: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> ModelReplicas:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}; raise max or lower min")
        return self


class Lora(Section):
    """Adapters of a model, loaded when ``local:NAME:ADAPTER`` is first asked for."""

    path: Annotated[str, StringConstraints(pattern=r"^(s3|gs|abfss|azure)://.+")]
    """Folder in an object store with one folder an adapter."""
    max_per_replica: int = Field(default=4, ge=1)
    """Adapters that a replica holds at once."""
    max_rank: int = Field(default=16, ge=1)


class ModelNeeds(Needs):
    """What one stage of a replica asks for: everything that must lie on one node."""

    num_gpus: float = 0

    @property
    def gpus(self) -> float:
        """GPUs on one node."""
        return self.num_gpus


class ServedModel(Section):
    """One model, ``local:NAME`` where it chats and ``vllm:NAME`` where it embeds."""

    name: ModelName
    hf_id: str | None = None
    """Repository on Hugging Face, downloaded by each node that runs it."""
    path: str | None = None
    """Folder with weights and tokenizer on every node that runs it; nothing is downloaded."""
    revision: str | None = None
    """Branch, tag or commit of ``hf_id``."""
    task: Literal["chat", "embed"] = "chat"
    device: Literal["gpu", "cpu"] = "gpu"
    """``cpu`` is for trying the path on a machine without a GPU: it needs vLLM's CPU build."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one node over which each layer is split."""
    pipeline_parallel: int = Field(default=1, ge=1)
    """Stages, each of ``tensor_parallel`` GPUs, which may lie on different nodes."""
    replicas: ModelReplicas = ModelReplicas()
    target_requests: int = Field(default=32, ge=1)
    """Requests in flight a replica that scaling aims at."""
    autoscaling: Autoscaling = Autoscaling(upscale_delay_secs=15, downscale_delay_secs=600)
    accelerator_type: str | None = None
    """Ray's accelerator type, such as ``H100``; only nodes of that ``gpu_type``."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory that the engine takes; ignored on a CPU."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Context window in tokens; the model's own without it."""
    num_cpus: float = Field(default=1, ge=0)
    """Logical cores of a replica, beside one for each worker on a CPU."""
    memory: Size = 0
    """Memory that the scheduler sets aside for a replica, bytes."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Only on nodes that carry these labels."""
    tool_parser: str | None = None
    """How the model writes tool calls, such as ``hermes``; agents need it to act."""
    reasoning_parser: str | None = None
    """How the model marks its reasoning, such as ``qwen3``."""
    lora: Lora | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of the replicas, no secrets."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Any other argument of the engine, passed through as it stands."""

    @field_validator("engine_args")
    @classmethod
    def _others(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key in OWNED:
                raise ValueError(f"{key} is set by {OWNED[key]}; write it there")
        return value

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if _SECRET.search(key):
                raise ValueError(
                    f"{key} looks like a secret and would be readable in every rendered file; set "
                    "it in the environment of the nodes (kubernetes.secret_keys)"
                )
        return value

    @model_validator(mode="after")
    def _possible(self) -> ServedModel:
        if (self.hf_id is None) == (self.path is None):
            raise ValueError("give either hf_id or path, which say where the weights are")
        if self.path is not None and self.revision is not None:
            raise ValueError("revision is of hf_id; a path holds what it holds, drop revision")
        if self.device == "cpu" and self.accelerator_type is not None:
            raise ValueError("accelerator_type is set and device is cpu; drop one of the two")
        if self.task == "embed" and (self.lora or self.tool_parser or self.reasoning_parser):
            raise ValueError("lora, tool_parser and reasoning_parser are for task: chat; drop them")
        return self

    @property
    def part(self) -> str:
        """Its key among the parts of the platform."""
        return f"models.{self.name}"

    @property
    def reference(self) -> str:
        """How agents, or settings, name it."""
        return f"local:{self.name}" if self.task == "chat" else f"vllm:{self.name}"

    def needs(self) -> ModelNeeds:
        """What one stage of a replica asks for."""
        workers = self.tensor_parallel
        on_cpu = self.device == "cpu"
        return ModelNeeds(
            num_cpus=self.num_cpus + (workers if on_cpu else 0),
            num_gpus=0 if on_cpu else workers,
            memory=self.memory,
            labels=dict(self.labels),
        )

    def count(self, replicas: int) -> int:
        """Stages of so many replicas."""
        return replicas * self.pipeline_parallel


def model_faults(
    models: tuple[ServedModel, ...], nodes: tuple[Node, ...]
) -> Iterator[tuple[str, str]]:
    """Path and message of what cannot work between models, and between models and machines."""
    taken: set[str] = set()
    for i, model in enumerate(models):
        if model.name in taken:
            yield f"models.{i}.name", f"{model.name!r} is taken; name each model differently"
        taken.add(model.name)
        misplaced = _misplaced(model, nodes) if nodes and model.device == "gpu" else None
        if misplaced is not None:
            key, message = misplaced
            yield f"models.{i}{key}", message


def _misplaced(model: ServedModel, nodes: tuple[Node, ...]) -> tuple[str, str] | None:
    """Key and message where no node has the GPUs of a model; None when one has."""
    with_gpus = [node for node in nodes if node.gpus]
    if not with_gpus:
        return "", "needs a GPU and no group of nodes has one; set gpus of one, or drop the model"
    wanted = model.accelerator_type
    fit = [node for node in with_gpus if wanted in (None, node.gpu_type)]
    if not fit:
        types = ", ".join(sorted({node.gpu_type or "unnamed" for node in with_gpus}))
        return ".accelerator_type", (
            f"no group of nodes has gpu_type {wanted!r}, there are: {types}; mend either"
        )
    most = max(node.gpus for node in fit)
    if model.tensor_parallel <= most:
        return None
    stages = math.ceil(model.tensor_parallel / most)
    return ".tensor_parallel", (
        f"{model.tensor_parallel} is more than such a node has GPUs ({most}); split it as "
        f"tensor_parallel: {most} and pipeline_parallel: {stages}"
    )
