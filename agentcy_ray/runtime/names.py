"""Names of the shared actors, the same in every process that knows the cluster config."""

from __future__ import annotations

from hashlib import blake2b

from agentcy_ray.runtime.cluster_config import ClusterConfig


def session_hosts(config: ClusterConfig) -> list[str]:
    """Actors that hold connector sessions and are always there; the foreman adds more."""
    return [host_name(i) for i in range(config.session_hosts.min)]


def host_name(index: int) -> str:
    """One session host."""
    return f"session-host-{index}"


def ingest_workers(config: ClusterConfig) -> list[str]:
    """Actors that run syncs."""
    return [f"ingest-{i}" for i in range(config.ingest.actors.max)]


def kyma_writers(config: ClusterConfig) -> list[str]:
    """Actors that stream into kyma; none where ingest actors do so themselves."""
    return [f"kyma-writer-{i}" for i in range(config.kyma.writers)]


def embedders(config: ClusterConfig) -> list[str]:
    """Actors that hold the embedding model."""
    return [f"embedding-{i}" for i in range(config.embedding.actors.max)]


def embedders_of(config: ClusterConfig, reference: str) -> list[str]:
    """Actors that hold another model than the default, started when it is asked for."""
    digest = blake2b(reference.encode(), digest_size=6).hexdigest()
    return [f"embedding-{digest}-{i}" for i in range(config.embedding.actors.max)]


def shared_actors(config: ClusterConfig) -> list[str]:
    """All actors that are always there."""
    return [
        *session_hosts(config),
        *ingest_workers(config),
        *kyma_writers(config),
        *embedders(config),
    ]
