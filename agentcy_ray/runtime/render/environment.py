"""Variables that every node of a cluster of several machines starts with.

Ray and Serve read them when they are imported, so that they cannot come with the application.
What the platform itself reads does come with it: see ``application_environment``.
"""

from __future__ import annotations

import orjson

from agentcy_ray.runtime.cluster_config.load import for_processes
from agentcy_ray.runtime.cluster_config.model import ClusterConfig
from agentcy_ray.runtime.haproxy import MOST_CONNECTIONS

HEALTH_CHECKS = {
    # Node death is noticed in seconds instead of 16.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""More patient than on one machine: a pod that is throttled must not count as dead."""


def node_environment(config: ClusterConfig) -> dict[str, str]:
    """Ray's and Serve's variables; no secrets."""
    drain = config.serve.drain_secs
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{drain:g}",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_MAXCONN": str(MOST_CONNECTIONS),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
        **HEALTH_CHECKS,
    }


def application_environment(config: ClusterConfig) -> dict[str, str]:
    """What the application's processes need: their parts of the config, and plain settings.

    It travels in the runtime environment, so that a change replaces replicas and not nodes.
    """
    inline = orjson.dumps(for_processes(config), option=orjson.OPT_SORT_KEYS).decode()
    return {**config.environment, "AGENTCY_CLUSTER_CONFIG": inline}
