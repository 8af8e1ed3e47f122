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


@ray.remote(num_cpus=0, max_restarts=0)
class Foreman:
    """Creates the shared actors and keeps their handles, which keeps them alive."""

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


def _options(name: str, **resources: float) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE, "get_if_exists": True, **resources}


def _session_hosts(config: ClusterConfig) -> dict[str, Any]:
    cpus = config.session_hosts.num_cpus
    return {
        name: SessionHost.options(**_options(name, num_cpus=cpus)).remote()
        for name in names.session_hosts(config)
    }


def _embedders(config: ClusterConfig) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in names.embedders(config):
        options = _options(
            name, num_cpus=config.embedding.num_cpus, num_gpus=config.embedding.num_gpus
        )
        made[name] = EmbeddingActor.options(**options).remote(config.embedding.threads)
        made[name].warm.remote()
    return made


def _ingest_workers(config: ClusterConfig) -> dict[str, Any]:
    cpus = config.ingest.num_cpus
    return {
        name: IngestWorker.options(**_options(name, num_cpus=cpus)).remote(
            name, names.embedders(config)
        )
        for name in names.ingest_workers(config)
    }
