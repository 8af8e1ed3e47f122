"""The whole file, and the combinations in it that cannot work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, cast, get_args

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime.cluster_config.models import ServedModel, model_faults
from agentcy_ray.runtime.cluster_config.nodes import Limits, Name, Node, RayOptions
from agentcy_ray.runtime.cluster_config.parts import (
    Agent,
    Api,
    EmbeddingActors,
    HotPath,
    IngestActors,
    KymaWriters,
    Needs,
    SessionHosts,
)
from agentcy_ray.runtime.cluster_config.targets import Kubernetes, RayUp, ServeOptions
from agentcy_ray.runtime.cluster_config.units import AUTO, Section, quantity
from agentcy_ray.runtime.listener import is_loopback

_TRUE = ("true", "1", "yes", "on")


class ClusterConfig(Section):
    """How many of each part, with what, on which machines. The defaults are a laptop."""

    name: Name = "agentcy"
    hot_path: HotPath = HotPath()
    api: Api = Api()
    agent: Agent = Agent()
    session_hosts: SessionHosts = SessionHosts()
    ingest: IngestActors = IngestActors()
    kyma: KymaWriters = KymaWriters()
    embedding: EmbeddingActors = EmbeddingActors()
    models: tuple[ServedModel, ...] = ()
    """Models that the cluster serves itself; they need the extra `gpu`."""
    ray: RayOptions = RayOptions()
    nodes: tuple[Node, ...] = ()
    """Groups of machines; none = the machine on which ``agentcy up`` runs."""
    limits: Limits = Limits()
    environment: dict[str, str] = Field(default_factory=dict)
    """Settings of the platform on every node; secrets belong in the Secret, not here."""
    serve: ServeOptions = ServeOptions()
    kubernetes: Kubernetes = Kubernetes()
    ray_up: RayUp = RayUp()

    @model_validator(mode="before")
    @classmethod
    def _size(cls, data: Any) -> Any:
        return sized(cast("Mapping[str, Any]", data)) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _possible(self) -> ClusterConfig:
        faults = list(self._faults())
        if faults:
            raise PydanticCustomError(
                "combination", "{count} impossible combinations",
                {"count": len(faults), "faults": faults},
            )  # fmt: skip
        return self

    @property
    def head(self) -> Node | None:
        """The head group; None on one machine."""
        return next((node for node in self.nodes if node.role == "head"), None)

    @property
    def workers(self) -> tuple[Node, ...]:
        """The groups that are not the head."""
        return tuple(node for node in self.nodes if node.role == "worker")

    def parts(self) -> dict[str, tuple[Needs, int, int]]:
        """What one of each part needs, with its bounds, by the key of its section."""
        return {
            "api": (self.api, self.api.replicas.min, self.api.replicas.max),
            "agent": (self.agent, self.agent.replicas.min, self.agent.replicas.max),
            "session_hosts": (
                self.session_hosts, self.session_hosts.min, self.session_hosts.max,
            ),
            "ingest": (self.ingest, self.ingest.actors.min, self.ingest.actors.max),
            "kyma": (self.kyma, self.kyma.writers, self.kyma.writers),
            "embedding": (self.embedding, self.embedding.actors.min, self.embedding.actors.max),
            **{
                one.part: (one.needs(), one.count(one.replicas.min), one.count(one.replicas.max))
                for one in self.models
            },
        }  # fmt: skip

    def _faults(self) -> Iterator[tuple[str, str]]:
        """Path and message of each combination that cannot work."""
        yield from self._environment_faults()
        public = self.environment.get("AGENTCY_PUBLIC_URL", "")
        said = self.environment.get("AGENTCY_BEHIND_TLS_PROXY", "").lower() in _TRUE
        if not (is_loopback(self.serve.host) or said or public.startswith("https://")):
            yield (
                "serve.host",
                f"{self.serve.host} listens beyond the machine without TLS; put a TLS proxy in "
                "front and say so with environment.AGENTCY_BEHIND_TLS_PROXY: true, or name it by "
                "environment.AGENTCY_PUBLIC_URL: https://…",
            )
        if not self.nodes:
            yield from model_faults(self.models, ())
            return
        names = [node.name for node in self.nodes]
        for i, node in enumerate(self.nodes):
            if node.name in names[:i]:
                yield f"nodes.{i}.name", f"{node.name!r} is taken; name each group differently"
            if self.ray.object_store_memory > node.memory // 2:
                yield (
                    f"nodes.{i}.memory",
                    f"{quantity(node.memory)} is less than twice ray.object_store_memory "
                    f"({quantity(self.ray.object_store_memory)}); give the node more, or lower it",
                )
        heads = sum(node.role == "head" for node in self.nodes)
        if heads != 1:
            yield "nodes", f"{heads} groups have role: head; give it to exactly one"
        of_models = list(model_faults(self.models, self.nodes))
        yield from of_models
        for name, (needs, _, _) in self.parts().items():
            if name.startswith("models.") and of_models:
                continue  # said already, and more exactly
            reason = _unplaceable(needs, self.nodes)
            if reason:
                yield name, reason
        yield from self._over_limits()

    def _environment_faults(self) -> Iterator[tuple[str, str]]:
        settings = Settings.model_fields
        for name in self.environment:
            field = settings.get(name.lower())
            if field is None:
                near = get_close_matches(name, [known.upper() for known in settings], n=1)
                hint = f"did you mean {near[0]}?" if near else "see `agentcy config explain`"
                yield f"environment.{name}", f"is no setting; {hint}"
            elif SecretStr in get_args(field.annotation) or name in self.kubernetes.secret_keys:
                yield (
                    f"environment.{name}",
                    "is a secret and would be readable in every rendered file; "
                    f"put it into the Secret {self.kubernetes.secret!r} (kubernetes.secret_keys)",
                )

    def _over_limits(self) -> Iterator[tuple[str, str]]:
        for key, value, limit in (
            ("nodes", sum(n.max for n in self.nodes), self.limits.nodes),
            ("cpus", sum(n.max * n.cpus for n in self.nodes), self.limits.cpus),
            ("memory", sum(n.max * n.memory for n in self.nodes), self.limits.memory),
            ("gpus", sum(n.max * n.gpus for n in self.nodes), self.limits.gpus),
        ):
            if limit is not None and value > limit:
                yield (
                    f"limits.{key}",
                    f"the nodes may grow to {value:g}, the limit is {limit:g}; "
                    "lower a group's max, or raise the limit",
                )


def sized(data: Mapping[str, Any]) -> dict[str, Any]:
    """The file with each ``auto`` replaced by what its ``hot_path`` needs; faults stay faults."""
    filled = deepcopy(dict(data))
    try:
        path = HotPath.model_validate(filled.get("hot_path") or {})
    except ValidationError:
        return filled  # reported with everything else, at its own place
    needed = hot_path_needs(path)
    for section, key in (("api", "replicas"), ("agent", "replicas"), ("session_hosts", None)):
        part = filled.get(section)
        if not isinstance(part, dict):
            continue
        fields = cast("dict[str, Any]", part)
        if key is not None and fields.get(key) == AUTO:
            fields[key] = {"min": AUTO, "max": AUTO}
        bounds = fields if key is None else fields.get(key)
        if isinstance(bounds, dict):
            counts = cast("dict[str, Any]", bounds)
            counts.update({
                name: needed[section] for name in ("min", "max") if counts.get(name) == AUTO
            })  # fmt: skip
    return filled


def hot_path_needs(path: HotPath) -> dict[str, int]:
    """How many of each part of the tool-call path its target takes, by section."""
    rates = {
        "api": path.calls_per_api_replica,
        "agent": path.calls_per_executor,
        "session_hosts": path.calls_per_host,
    }
    return {part: math.ceil(path.calls_per_minute / rate) for part, rate in rates.items()}


def _unplaceable(needs: Needs, nodes: tuple[Node, ...]) -> str | None:
    """Why no node can take one of a part, with the way out; None when one can."""
    fit = [n for n in nodes if needs.labels.items() <= n.all_labels.items()]
    if not fit:
        return f"no group of nodes carries the labels {needs.labels}; add them to one"
    for name, amount in needs.resources.items():
        fit = [n for n in fit if n.resources.get(name, 0) >= amount]
        if not fit:
            return f"no such node has {amount:g} of the resource {name!r}; add it to one"
    if needs.gpus:
        fit = [n for n in fit if n.gpus >= needs.gpus]
        if not fit:
            return f"asks for {needs.gpus:g} GPU and no such node has it; set gpus of a group"
    cpus = [n for n in fit if n.cpus >= needs.num_cpus]
    if not cpus:
        most = max(n.cpus for n in fit)
        return f"num_cpus {needs.num_cpus:g} is more than such a node has ({most:g}); lower it"
    if not any(n.memory >= needs.memory for n in cpus):
        most = max(n.memory for n in cpus)
        return (
            f"memory {quantity(needs.memory)} is more than such a node has ({quantity(most)}); "
            "lower it"
        )
    return None
