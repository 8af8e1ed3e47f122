"""The foreman: one supervised actor that owns all other shared actors.

Serve supervises it with the application (a deployment actor), so that everything it owns is gone
when the application is. Its actors have names that every process derives from the cluster config,
and restart by themselves when they die.
"""

from __future__ import annotations

from typing import Any

import ray

from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime import names
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.cluster_config import ClusterConfig, load_cluster_config
from agentcy_ray.runtime.embedding import EmbeddingActor
from agentcy_ray.runtime.ingest_workers import IngestWorker
from agentcy_ray.runtime.session_hosts import SessionHost


class Foreman:
    """Actor class. Creates the shared actors and keeps their handles, which keeps them alive."""

    def __init__(self) -> None:
        config = load_cluster_config(Settings.load().agentcy_cluster_config)
        self._actors: dict[str, Any] = {
            **_embedders(config),
            **_session_hosts(config),
            **_ingest_workers(config),
        }

    def actors(self) -> list[str]:
        """Names of the actors that it owns."""
        return list(self._actors)


def _make(cls: type[Any], name: str, concurrency: int, args: tuple[Any, ...], **need: float) -> Any:
    """Start a named actor that Ray restarts when it dies.

    Calls are never retried by Ray: a tool call may have had its effect already.
    """
    remote: Any = ray.remote(cls)
    return remote.options(
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=concurrency,
        **need,
    ).remote(*args)


def _session_hosts(config: ClusterConfig) -> dict[str, Any]:
    cpus = config.session_hosts.num_cpus
    return {
        name: _make(SessionHost, name, 1000, (), num_cpus=cpus)
        for name in names.session_hosts(config)
    }


def _embedders(config: ClusterConfig) -> dict[str, Any]:
    part, made = config.embedding, dict[str, Any]()
    for name in names.embedders(config):
        made[name] = _make(
            EmbeddingActor, name, 200, (part.threads,),
            num_cpus=part.num_cpus, num_gpus=part.num_gpus,
        )  # fmt: skip
    return made


def warm_up(config: ClusterConfig) -> None:
    """Let the embedders load their model; returns at once.

    Called when the application serves: loading earlier would take the cores that it starts on.
    """
    for name in names.embedders(config):
        embedder: Any = ray.get_actor(name, namespace=NAMESPACE)
        embedder.warm.remote()


def _ingest_workers(config: ClusterConfig) -> dict[str, Any]:
    cpus = config.ingest.num_cpus
    return {
        name: _make(IngestWorker, name, 2, (name, names.embedders(config)), num_cpus=cpus)
        for name in names.ingest_workers(config)
    }
