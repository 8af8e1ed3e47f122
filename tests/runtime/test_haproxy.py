"""The ingress: Ray Serve's own config after our edits, through the real wrapper and HAProxy."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentcy_ray.api.origin import Origin
from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime import haproxy
from agentcy_ray.stores.embedded.ports import choose
from tests.api.platform import serve


@dataclass
class Ingress:
    """A folder with our wrapper and the config that Serve would write."""

    home: Path
    wrapper: Path
    config: Path
    port: int

    def edited(self) -> str:
        """The config after the wrapper had it; HAProxy finds no fault with it."""
        done = subprocess.run(
            [self.wrapper, "-c", "-f", self.config], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return self.config.read_text()


def ingress(tmp_path: Path, host: str = "127.0.0.1", replica: int = 1) -> Ingress:
    real = haproxy.binary()
    if real is None:
        pytest.skip("no HAProxy on this machine")
    home = haproxy.folder_for(tmp_path)
    ports = [choose([]) for _ in range(3)]
    variables = haproxy.environment(home, real, {"stats": ports[0], "metrics": ports[1]})
    wrapper = Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"])
    config = Path(variables["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"])
    settings = HAProxyConfig(
        socket_path=str(home / "admin.sock"),
        server_state_base=str(home),
        server_state_file=str(home / "server-state"),
        stats_port=ports[0],
        metrics_port=ports[1],
        metrics_enabled=True,
        metrics_socket_path=str(home / "metrics.sock"),
        http_options=HTTPOptions(host=host, port=ports[2]),
        has_received_routes=True,
        has_received_servers=True,
    )
    backend = BackendConfig(
        name="app", path_prefix="/", app_name="app",
        servers=[ServerConfig(name="replica", host="127.0.0.1", port=replica)],
    )  # fmt: skip
    HAProxyApi(settings, {"app": backend}, str(config))._generate_config_file_internal()
    return Ingress(home, wrapper, config, ports[2])


def binds(config: str) -> dict[str, str]:
    """Section → address that it listens at."""
    found: dict[str, str] = {}
    section = ""
    for line in config.splitlines():
        words = line.split()
        if line and not line[0].isspace() and words[0] in {"frontend", "listen", "backend"}:
            section = words[1]
        elif words[:1] == ["bind"]:
            found[section] = words[1].rpartition(":")[0]
    return found


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize(("host", "public"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "*")])
def test_only_the_public_listener_leaves_loopback_and_only_when_told(
    tmp_path: Path, host: str, public: str
) -> None:
    made = ingress(tmp_path, host)
    before = binds(made.config.read_text())
    assert {before["prometheus"], before["stats"]} == {"", "*"}  # what the edits are for
    after = binds(made.edited())
    assert after == {"prometheus": "127.0.0.1", "stats": "127.0.0.1", "http_frontend": public}


def test_no_datagram_is_sent_for_a_request_and_none_is_watched_in_a_task(tmp_path: Path) -> None:
    made = ingress(tmp_path)
    assert "log-format-sd" in made.config.read_text()
    lines = [line.split() for line in made.edited().splitlines()]
    assert not [words for words in lines if words[:1] in (["log"], ["log-format-sd"])]
    added = ["http-request", "set-header", "x-request-disconnect-disabled", "?1"]
    assert lines.count(added) == 1


def test_a_config_that_is_edited_again_stays_as_it_is(tmp_path: Path) -> None:
    made = ingress(tmp_path)
    once = made.edited()
    assert made.edited() == once


@asynccontextmanager
async def running(made: Ingress) -> AsyncIterator[httpx.AsyncClient]:
    """HAProxy at work; the client waits for its listener, bounded."""
    process = await asyncio.create_subprocess_exec(made.wrapper, "-db", "-f", made.config)
    transport = httpx.AsyncHTTPTransport(retries=6)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{made.port}", transport=transport, timeout=20
        ) as client:
            yield client
    finally:
        process.kill()
        await process.wait()


async def whoami(request: Request) -> JSONResponse:
    peers = [v.decode() for k, v in request.headers.raw if k == haproxy.PEER_HEADER]
    return JSONResponse({"client": request.client.host if request.client else None, "peers": peers})


async def test_a_client_cannot_say_who_it_is(tmp_path: Path) -> None:
    app = Origin(Starlette(routes=[Route("/{rest:path}", whoami)]), (), haproxy.PEER_HEADER)
    async with serve(app) as url:
        made = ingress(tmp_path, replica=int(url.rpartition(":")[2]))
        async with running(made) as client:
            for spoofed in ({}, {"x-agentcy-peer": "6.6.6.6", "x-forwarded-for": "6.6.6.6"}):
                seen: dict[str, Any] = (await client.get("/x", headers=spoofed)).json()
                assert seen == {"client": "127.0.0.1", "peers": ["127.0.0.1"]}


@pytest.mark.parametrize("length", [1, 12, 20, 40, 90])
def test_the_path_of_the_admin_socket_is_never_too_long(tmp_path: Path, length: int) -> None:
    """Serve puts a folder with a node's id between; a home folder may have any name."""
    state_dir = Path("/tmp") / ("h" * length) / tmp_path.name / ".agentcy"
    home = haproxy.folder_for(state_dir)
    try:
        assert len(str(home / ("0" * 56) / "admin.sock")) <= 97
        assert home.stat().st_mode & 0o777 == 0o700
        assert haproxy.folder_for(state_dir) == home
    finally:
        shutil.rmtree(home)
        shutil.rmtree(state_dir.parents[1], ignore_errors=True)


def test_a_folder_that_somebody_else_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = haproxy.folder_for(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="not ours"):
        haproxy.folder_for(tmp_path)
