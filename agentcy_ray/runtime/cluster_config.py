"""The one cluster config, ``cluster/agentcy.yaml``, as a checked record.

Unknown keys are errors that name the key, since a misspelt bound would otherwise be a default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentcy_ray.core.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bounds(_Section):
    """How many of a part: autoscaling moves between the two."""

    min: int = Field(default=1, ge=1)
    max: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class HotPath(_Section):
    """What the tool-call path has to carry."""

    calls_per_minute: int = Field(default=10_000, ge=1)


class Api(_Section):
    """API replicas: stateless, balanced by least connections."""

    replicas: Bounds = Bounds()
    target_streams: int = Field(default=500, ge=1)
    num_cpus: float = Field(default=0, ge=0)


class Agent(_Section):
    """Replicas that execute runs."""

    replicas: Bounds = Bounds()
    runs_per_replica: int = Field(default=64, ge=1)
    num_cpus: float = Field(default=0, ge=0)


class SessionHosts(_Section):
    """Actors that hold connector sessions."""

    min: int = Field(default=1, ge=1)
    max: int = Field(default=1, ge=1)
    batch_max: int = Field(default=128, ge=1, le=1024)
    num_cpus: float = Field(default=0, ge=0)


class IngestActors(_Section):
    """Actors that run syncs."""

    actors: Bounds = Bounds()
    num_cpus: float = Field(default=0, ge=0)


class EmbeddingActors(_Section):
    """Actors that hold an embedding model."""

    actors: Bounds = Bounds()
    num_cpus: float = Field(default=0, ge=0)
    num_gpus: float = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)


class RayOptions(_Section):
    """Ray itself, when we start it."""

    object_store_memory: int = Field(default=256 * 1024 * 1024, ge=80 * 1024 * 1024)
    logical_cpus: int = Field(default=16, ge=1)


class ClusterConfig(_Section):
    """The whole file."""

    hot_path: HotPath = HotPath()
    api: Api = Api()
    agent: Agent = Agent()
    session_hosts: SessionHosts = SessionHosts()
    ingest: IngestActors = IngestActors()
    embedding: EmbeddingActors = EmbeddingActors()
    ray: RayOptions = RayOptions()


def load_cluster_config(path: str | None) -> ClusterConfig:
    """Read and check a cluster config; the defaults, which are the laptop shape, without one.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or has unknown or invalid keys.
    """
    text = "" if path is None else _read(path)
    try:
        data: Any = yaml.safe_load(text) or {}
        return ClusterConfig.model_validate(data)
    except yaml.YAMLError as error:
        raise ConfigError(f"the cluster config is not YAML: {error}") from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_input=False)
        ]
        raise ConfigError(
            "the cluster config is invalid:\n  " + "\n  ".join(faults), faults=faults
        ) from error


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text()
    except OSError as error:
        raise ConfigError(
            f"cannot read the cluster config {path!r}: {error.strerror or error}; "
            "set AGENTCY_CLUSTER_CONFIG to a readable file"
        ) from error
