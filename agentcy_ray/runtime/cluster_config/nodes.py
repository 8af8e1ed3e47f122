"""The machines: groups of equal nodes, Ray's own options, and what all of it may cost at most."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from agentcy_ray.runtime.cluster_config.units import Section, Size

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""A name that Kubernetes, Helm and Ray all take."""

LabelKey = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
    ),
]
LabelValue = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")
]

RESERVED = ("CPU", "GPU", "memory", "object_store_memory")


class Node(Section):
    """A group of equal nodes. One group is the head; workers scale between ``min`` and ``max``."""

    name: Name
    role: Literal["head", "worker"] = "worker"
    min: int = Field(default=1, ge=0)
    max: int = Field(default=1, ge=1)
    cpus: int = Field(ge=1)
    memory: Size
    gpus: int = Field(default=0, ge=0)
    gpu_type: str | None = None
    """Ray's accelerator type, such as ``L4``; Ray labels the node with it."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources of each node."""
    node_config: dict[str, object] = Field(default_factory=dict)
    """The provider's description of such a machine, for ``ray up`` (AWS: ``InstanceType`` …)."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Which Kubernetes nodes take its pods."""

    @model_validator(mode="after")
    def _possible(self) -> Node:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}; raise max or lower min")
        if self.role == "head" and (self.min, self.max) != (1, 1):
            raise ValueError("a cluster has exactly one head node; set min: 1 and max: 1")
        if self.gpu_type is not None and self.gpus == 0:
            raise ValueError("gpu_type is set and gpus is 0; set gpus, or drop gpu_type")
        taken = [name for name in self.resources if name in RESERVED]
        if taken:
            raise ValueError(f"resources: {taken[0]} is Ray's own; use cpus, gpus or memory")
        return self

    @property
    def all_labels(self) -> dict[str, str]:
        """Labels with which the node starts: its own, and its group's name."""
        return {"agentcy.io/group": self.name, **self.labels}


class GcsFaultTolerance(Section):
    """Ray's control store in Redis, so that the head may be lost without the cluster."""

    redis_address: str = Field(min_length=1)
    """``redis://host:port``; a Redis apart from the platform's, see docs/cluster.md."""
    password_key: str | None = None
    """Key of the secret that holds its password."""


class RayOptions(Section):
    """Ray itself."""

    object_store_memory: Annotated[Size, Field(ge=80 * 1024 * 1024)] = 256 * 1024 * 1024
    """Shared memory of a node's object store, bytes."""
    logical_cpus: int = Field(default=16, ge=1)
    """Cores of the one-machine cluster that ``agentcy up`` starts; not of declared nodes."""
    gcs_fault_tolerance: GcsFaultTolerance | None = None


class Limits(Section):
    """What all nodes together may be at most; a guard against a typing error in a bound."""

    nodes: int = Field(default=100, ge=1)
    cpus: int | None = Field(default=None, ge=1)
    memory: Size | None = None
    gpus: int | None = Field(default=None, ge=0)
