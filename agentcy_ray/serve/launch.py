"""Start the whole platform on this machine, and stop it again.

One process (``agentcy up``) owns it: it holds the lock of the state folder, is Ray's driver, and
takes everything down when it ends. A second start on the same folder is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import psutil

from agentcy_ray.core.clock import SystemClock, rfc3339
from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime import cluster
from agentcy_ray.runtime.cluster_config import load_cluster_config
from agentcy_ray.stores.embedded import stop_embedded
from agentcy_ray.stores.embedded.ports import Reservation, choose, is_free
from agentcy_ray.stores.resolve import resolve_endpoints

if TYPE_CHECKING:
    from agentcy_ray.serve.models import ModelDeployer

Say = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """What ``up.json`` says of the platform that runs on a state folder."""

    pid: int
    process_started: float
    """When it began, seconds since the epoch: a pid alone may be somebody else's by now."""
    url: str
    started_at: str
    warm_up_secs: float
    version: str


class StateLock:
    """One platform per state folder. The kernel frees the lock when its holder dies."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = state_dir / "up.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ConfigError: another process holds it; the message names its pid.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode().strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                f"the platform already runs on {self._path.parent} (pid {pid}); use it, stop it "
                "with `agentcy down`, or set AGENTCY_STATE_DIR for a second one",
                code="already_running",
                pid=pid,
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Platform:
    """The running platform; ``start`` then ``stop``."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self._settings = settings
        self._say = say
        self._lock = StateLock(settings.state_dir)
        self._started = False
        self._reserved: Reservation | None = None
        self._models: ModelDeployer | None = None

    def start(self) -> Running:
        """Bring everything up; returns when the API answers.

        Raises:
            ConfigError: it already runs, a port is taken, or settings do not fit this machine.
            StoreUnavailableError: a store or Ray did not come up.
        """
        began = time.monotonic()
        self._lock.acquire()
        try:
            port = self._port()
            prepared = cluster.prepare(self._settings, port)
            self._reserved = prepared.reserved
            config = load_cluster_config(self._settings.agentcy_cluster_config)
            self._say("starting the stores and Ray")
            with ThreadPoolExecutor(1, "stores") as aside:
                stores = aside.submit(asyncio.run, self._open_stores())
                cluster.start(self._settings, config)
                self._started = True
                stores.result()
            self._say("deploying the application")
            from agentcy_ray.runtime.foreman import warm_up
            from agentcy_ray.serve.application import deploy

            deploy(self._settings, config, port)
            warm_up(config)
            if config.models:
                from agentcy_ray.serve.models import ModelDeployer

                self._models = ModelDeployer(self._settings, config, self._say)
                self._models.start()
            if not prepared.ha_proxy:
                self._say("no HAProxy on this machine: requests take the slower proxy")
            return self._record(port, time.monotonic() - began)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take the application, Ray and the embedded servers down; safe after a failed start."""
        if self._models is not None:
            self._models.stop()
            self._models = None
        if self._started:
            from agentcy_ray.serve.application import withdraw

            withdraw()
            cluster.stop()
            self._started = False
        if self._reserved is not None:
            self._reserved.release()
        asyncio.run(stop_embedded(self._settings))
        (self._settings.state_dir / "up.json").unlink(missing_ok=True)
        self._lock.release()

    async def _open_stores(self) -> None:
        """Start what has no URL, and bring schema and first rows up to this version."""
        from agentcy_ray.serve.wiring import prepare_stores

        endpoints = await resolve_endpoints(self._settings)
        await prepare_stores(self._settings, endpoints)

    def _port(self) -> int:
        wanted = self._settings.agentcy_port
        if wanted == 0:
            return choose([])
        if not is_free(wanted):
            raise ConfigError(
                f"port {wanted} is taken by another program; set AGENTCY_PORT to a free one, "
                "or to 0 for any",
                code="port_taken",
            )
        return wanted

    def _own_url(self, port: int) -> str:
        scheme = "http" if self._settings.agentcy_tls_cert is None else "https"
        return f"{scheme}://{self._settings.agentcy_host}:{port}"

    def _record(self, port: int, secs: float) -> Running:
        from agentcy_ray import __version__

        running = Running(
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            url=self._settings.agentcy_public_url or self._own_url(port),
            started_at=rfc3339(SystemClock().now()),
            warm_up_secs=round(secs, 2),
            version=__version__,
        )
        path = self._settings.state_dir / "up.json"
        fresh = path.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(running.__dict__))
        fresh.replace(path)
        return running


def read_running(state_dir: Path) -> Running | None:
    """The platform that serves on a state folder, or None.

    A record whose process is gone (it was killed) counts as none. The lock is not touched: taking
    it for a look could refuse a platform that starts in that moment.
    """
    try:
        data: dict[str, Any] = orjson.loads((state_dir / "up.json").read_bytes())
        running = Running(**data)
        same = psutil.Process(running.pid).create_time() == running.process_started
    except (OSError, orjson.JSONDecodeError, TypeError, psutil.NoSuchProcess):
        return None
    return running if same else None
