"""The parts of the platform: how many of each, with what, and where they may run."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from agentcy_ray.runtime.cluster_config.units import AUTO, Count, Section, Size


class Bounds(Section):
    """How many of a part: scaling moves between the two."""

    min: int = Field(default=1, ge=1)
    max: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}; raise max or lower min")
        return self


class Replicas(Bounds):
    """Bounds of a Serve deployment; ``auto``, for both or for one, is what ``hot_path`` needs."""

    min: Count = 1
    max: Count = 1

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"const": AUTO}]}


class Pool(Bounds):
    """Bounds of a pool that is started whole and stays: the two are the same number."""

    @model_validator(mode="after")
    def _fixed(self) -> Pool:
        if self.max != self.min:
            raise ValueError(
                f"min {self.min} and max {self.max} differ, and this pool does not scale with its "
                "load; write the same number twice"
            )
        return self


class HotPath(Section):
    """What the tool-call path has to carry, and what one of each part carries.

    The rates size whatever says ``auto`` and are what ``agentcy cluster plan`` compares with; they
    are those of one slow core, so measure yours: ``make bench NAME=tool_calls``.
    """

    calls_per_minute: int = Field(default=10_000, ge=1)
    """Governed tool-call results a minute, all organisations together."""
    calls_per_host: int = Field(default=120_000, ge=1)
    """Results a minute of one session host."""
    calls_per_executor: int = Field(default=60_000, ge=1)
    """Results a minute of one agent replica: the loop and its gates."""
    calls_per_api_replica: int = Field(default=60_000, ge=1)
    """Results a minute that one API replica streams or answers."""


class Needs(Section):
    """What one actor or replica of a part asks Ray for, and where it may run."""

    num_cpus: float = Field(default=0, ge=0)
    """Logical cores. 0 lets it run anywhere, as on a laptop."""
    memory: Size = 0
    """Memory that the scheduler sets aside, bytes; 0 sets none aside."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Only on nodes that carry these labels."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources, as nodes declare them."""

    @property
    def gpus(self) -> float:
        """GPUs of one actor."""
        return 0

    def actor_options(self) -> dict[str, Any]:
        """These needs as options of a Ray actor or of a Serve replica."""
        options: dict[str, Any] = {"num_cpus": self.num_cpus}
        if self.gpus:
            options["num_gpus"] = self.gpus
        if self.memory:
            options["memory"] = self.memory
        if self.labels:
            options["label_selector"] = dict(self.labels)
        if self.resources:
            options["resources"] = dict(self.resources)
        return options


class Autoscaling(Section):
    """How fast a Serve deployment follows its load, seconds. Serve's own defaults take a minute."""

    upscale_delay_secs: float = Field(default=3, ge=0)
    downscale_delay_secs: float = Field(default=120, ge=0)
    metrics_interval_secs: float = Field(default=1, gt=0)
    look_back_secs: float = Field(default=5, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Autoscaling:
        if self.look_back_secs <= self.metrics_interval_secs:
            raise ValueError(
                f"look_back_secs {self.look_back_secs:g} must be longer than "
                f"metrics_interval_secs {self.metrics_interval_secs:g}; raise it"
            )
        return self


class Api(Needs):
    """API replicas: stateless, balanced by least connections."""

    replicas: Replicas = Replicas()
    target_streams: int = Field(default=500, ge=1)
    """Open requests that a replica is sized for; twice as many is its limit."""
    autoscaling: Autoscaling = Autoscaling()


class Agent(Needs):
    """Replicas that execute runs."""

    replicas: Replicas = Replicas()
    runs_per_replica: int = Field(default=64, ge=1)
    """Runs that a replica executes at once."""
    autoscaling: Autoscaling = Autoscaling()


class SessionHosts(Needs):
    """Actors that hold connector sessions. They scale with load between ``min`` and ``max``."""

    min: Count = 1
    max: Count = 1
    target_in_flight: int = Field(default=128, ge=1)
    """Calls in flight a host that scaling aims at."""
    idle_secs: float = Field(default=60, gt=0)
    """A host above ``min`` leaves, drained, after so long with less than its share of calls."""
    session_idle_secs: float = Field(default=600, gt=0)
    """A connector session without calls is closed after it."""
    sessions_per_host: int = Field(default=2000, ge=1)
    """Open sessions of a host; beyond it the one that is idle longest is closed."""
    batch_max: int = Field(default=128, ge=1, le=1024)
    """Calls that travel together."""

    @model_validator(mode="after")
    def _ordered(self) -> SessionHosts:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}; raise max or lower min")
        return self


class IngestActors(Needs):
    """Actors that run syncs."""

    actors: Pool = Pool()


class KymaWriters(Needs):
    """Actors that stream batches of ingest actors into kyma; only the Advanced engine has use for
    them.
    """

    writers: int = Field(default=0, ge=0)
    """0 = ingest actors send what they read themselves."""


class EmbeddingActors(Needs):
    """Actors that hold an embedding model."""

    actors: Pool = Pool()
    num_gpus: float = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)
    """Torch threads of an actor; 0 = on one machine its cores divided by the actors, else all of a
    node.
    """
    batch: int = Field(default=0, ge=0)
    """Tokens of one model call, padding included; 0 = what suits the device."""

    @property
    def gpus(self) -> float:
        """GPUs of one actor."""
        return self.num_gpus

    @property
    def whole_gpus(self) -> int:
        """GPUs that the model of one actor lies on, where it runs on any."""
        return max(1, int(self.num_gpus))

    @model_validator(mode="after")
    def _whole_gpus(self) -> EmbeddingActors:
        if self.num_gpus > 1 and self.num_gpus != math.floor(self.num_gpus):
            raise ValueError(
                f"num_gpus {self.num_gpus:g}: above one, Ray gives whole GPUs only; "
                f"write {math.ceil(self.num_gpus)} or a part of one"
            )
        return self
