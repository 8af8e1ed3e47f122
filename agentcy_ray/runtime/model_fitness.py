"""Can this cluster serve the models of its config? If not, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from agentcy_ray.runtime.cluster_config.models import ServedModel
from agentcy_ray.stores.versions import Check

_DEVICES = Path("/dev")


def has_vllm() -> bool:
    """Whether vLLM is installed here; nothing of it is loaded."""
    return find_spec("vllm") is not None


def gpus_here() -> int:
    """NVIDIA GPUs of this machine that a process of ours can open."""
    return sum(one.name[6:].isdigit() for one in _DEVICES.glob("nvidia[0-9]*"))


def refusal(model: ServedModel, *, vllm: bool, gpus: float) -> str | None:
    """Why a model cannot be served, with the way out; None when it can.

    Args:
        model: of the cluster config.
        vllm: whether vLLM is installed.
        gpus: of the whole cluster.
    """
    if not vllm and model.device == "cpu":
        return (
            "vLLM is not installed; install its CPU build as `make test-vllm` does "
            "(docs/models.md), or drop the model from the cluster config"
        )
    if not vllm:
        return (
            "vLLM is not installed; run `pip install 'agentcy-ray[gpu]'` on every node and start "
            "again, or drop the model from the cluster config"
        )
    wanted = model.needs().gpus * model.pipeline_parallel
    if wanted > gpus:
        return (
            f"it needs {wanted:g} GPU and this cluster has {gpus:g}; add nodes with GPUs, lower "
            "tensor_parallel, or try it with device: cpu"
        )
    return None


def doctor_checks(models: Sequence[ServedModel]) -> list[Check]:
    """One row a model for ``agentcy doctor``; none where the config lists none."""
    vllm, gpus = has_vllm(), gpus_here()
    return [
        Check(
            name=f"model {one.name}",
            ok=(reason := refusal(one, vllm=vllm, gpus=gpus)) is None,
            found=f"vLLM {'installed' if vllm else 'missing'}, {gpus} GPU",
            needed=f"vLLM, {one.needs().gpus * one.pipeline_parallel:g} GPU",
            remedy=reason or "",
        )
        for one in models
    ]
