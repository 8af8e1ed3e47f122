"""The foreman: one supervised actor that owns all other shared actors.

Serve supervises it with the application (a deployment actor), so that everything it owns is gone
when the application is. Its actors have names that every process derives from the cluster config,
and restart by themselves when they die. Session hosts come and go with the load; it keeps them on
an event loop of its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import ray
import structlog

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import usable_cores
from agentcy_ray.runtime import names
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.cluster_config import ClusterConfig, load_cluster_config
from agentcy_ray.runtime.embedding import EmbeddingActor
from agentcy_ray.runtime.host_keeper import LINGER_SECS, HostKeeper
from agentcy_ray.runtime.ingest_workers import IngestWorker
from agentcy_ray.runtime.kyma_writers import KymaWriterActor
from agentcy_ray.runtime.session_hosts import OpenSources, SessionHost

log = structlog.get_logger(__name__)

HOST_EXCHANGES = 1000
"""Exchanges that a host may have parked: one or two per dispatcher."""
KYMA_BATCHES = 32
"""Batches that a writer holds at once: two for each ingest actor that sends to it."""


class Foreman:
    """Actor class. Creates the shared actors and keeps their handles, which keeps them alive."""

    def __init__(self) -> None:
        config = load_cluster_config(Settings.load().agentcy_cluster_config)
        self._config = config
        self._actors: dict[str, Any] = {
            **_embedders(config),
            **_kyma_writers(config),
            **_ingest_workers(config),
        }
        self._keeper = keep_hosts(config)
        threading.Thread(target=self._keep, name="session-hosts", daemon=True).start()

    def actors(self) -> list[str]:
        """Names of the actors that it owns."""
        return [*self._actors, *self._keeper.hosts.names]

    def embedders(self, reference: str) -> list[str]:
        """Names of the actors that hold another model than the default; starts those that lack.

        They load it at their first call, and stay until the application goes.
        """
        part, found = self._config.embedding, names.embedders_of(self._config, reference)
        for name in found:
            if name not in self._actors:
                args = (_threads(self._config), part.batch, reference, None, part.whole_gpus)
                self._actors[name] = _make(EmbeddingActor, name, 200, args, **part.actor_options())
        return found

    def _keep(self) -> None:
        try:
            asyncio.run(self._keeper.run(asyncio.Event()))
        except Exception:
            # Nobody would tell the hosts any more: end the process, Serve starts a new foreman.
            log.exception("the foreman failed; it is replaced")
            os._exit(1)


def _make(cls: type[Any], name: str, concurrency: int, args: tuple[Any, ...], **need: Any) -> Any:
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


def keep_hosts(
    config: ClusterConfig,
    open_sources: OpenSources | None = None,
    linger_secs: float = LINGER_SECS,
) -> HostKeeper:
    """A keeper of session hosts, with the least number started.

    Args:
        config: bounds, targets and needs of the hosts.
        open_sources: where hosts read their sources; the platform's own store by default.
        linger_secs: see ``HostKeeper``.
    """
    part = config.session_hosts

    def start(name: str) -> Any:
        return _make(
            SessionHost, name, HOST_EXCHANGES, (name, part, open_sources), **part.actor_options()
        )

    return HostKeeper(part, start, linger_secs)


def _embedders(config: ClusterConfig) -> dict[str, Any]:
    part, made = config.embedding, dict[str, Any]()
    this = ray.get_runtime_context().current_actor  # which they ask for actors of other models
    for name in names.embedders(config):
        args = (_threads(config), part.batch, None, this, part.whole_gpus)
        made[name] = _make(EmbeddingActor, name, 200, args, **part.actor_options())
    return made


def _threads(config: ClusterConfig) -> int:
    """CPU cores of one embedder; 0 = all of its node."""
    part = config.embedding
    if part.threads or config.nodes or part.num_gpus:
        return part.threads
    return max(1, usable_cores() // part.actors.max)


def warm_up(config: ClusterConfig) -> None:
    """Let the embedders load their model; returns at once.

    Called when the application serves: loading earlier would take the cores that it starts on.
    """
    for name in names.embedders(config):
        embedder: Any = ray.get_actor(name, namespace=NAMESPACE)
        embedder.warm.remote()


def _kyma_writers(config: ClusterConfig) -> dict[str, Any]:
    needs = config.kyma.actor_options()
    return {
        name: _make(KymaWriterActor, name, KYMA_BATCHES, (name,), **needs)
        for name in names.kyma_writers(config)
    }


def _ingest_workers(config: ClusterConfig) -> dict[str, Any]:
    needs = config.ingest.actor_options()
    others = (names.embedders(config), names.kyma_writers(config))
    return {
        name: _make(IngestWorker, name, 2, (name, *others), **needs)
        for name in names.ingest_workers(config)
    }
