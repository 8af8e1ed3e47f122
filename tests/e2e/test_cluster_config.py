"""The cluster config on a running platform: started by it, then redeployed from its rendering."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import orjson
import psutil
import pytest

from tests.e2e.conftest import WAIT_SECS, Machine, environment

DEPLOY = """
import sys, ray, yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
ray.init(address=sys.argv[1], namespace="agentcy", log_to_driver=False,
         _node_ip_address="127.0.0.1")
def hosts():
    actors = ray.util.list_named_actors(all_namespaces=True)
    return sorted(a["name"] for a in actors if a["name"].startswith("session-host"))
before = hosts()
schema = ServeDeploySchema.model_validate(yaml.safe_load(sys.stdin))
_get_global_client().deploy_apps(schema, _blocking=True)
states = sorted(app.status.value for app in serve.status().applications.values())
print([before, states, hosts()])
"""
"""What ``serve deploy`` and KubeRay's operator ask of Serve, without the dashboard between."""


@pytest.fixture(scope="module")
def by_config(workdir: Path) -> Iterator[Machine]:
    """`agentcy up --cluster`, with two session hosts."""
    state_dir = workdir / "c"
    (workdir / "two.yaml").write_text("session_hosts: {min: 2, max: 2}\n")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agentcy_ray.cli", "up", "--detach", "--cluster", "two.yaml",
             "--json"],
            cwd=workdir, env=environment(state_dir), capture_output=True, text=True,
            timeout=WAIT_SECS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        running = orjson.loads(done.stdout)
        yield Machine(state_dir, workdir, running["pid"], running["url"])
    finally:
        subprocess.run(
            [sys.executable, "-m", "agentcy_ray.cli", "down"],
            env=environment(state_dir), capture_output=True, timeout=WAIT_SECS,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.requirement("CLU-04")
def test_a_platform_started_by_a_config_takes_the_rendering_of_another(by_config: Machine) -> None:
    (by_config.workdir / "one.yaml").write_text(
        "session_hosts: {min: 1, max: 1}\nagent: {replicas: {min: 1, max: 2}}\n"
    )
    rendered = by_config.agentcy("cluster", "render", "one.yaml", "--to", "serve")["files"]["-"]
    [gcs] = by_config.processes("gcs_server")
    ports = [c.laddr.port for c in gcs.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    token = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(by_config.state_dir / "ray-token"),
    }
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY, f"127.0.0.1:{ports[0]}"],
        env=by_config.environment | token | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        input=rendered,
        capture_output=True,
        text=True,
        timeout=WAIT_SECS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert literal_eval(done.stdout.splitlines()[-1]) == [
        ["session-host-0", "session-host-1"],
        ["RUNNING", "RUNNING"],
        ["session-host-0"],
    ]
    answer = httpx.get(f"{by_config.url}/health/live", timeout=30)
    assert answer.status_code == 200


@pytest.mark.requirement("CLU-04")
def test_a_fault_in_the_config_is_told_before_anything_starts(workdir: Path) -> None:
    (workdir / "bad.yaml").write_text("session_host: {min: 2}\n")
    nowhere = Machine(workdir / "n", workdir, 0, "")
    answer = nowhere.agentcy("up", "--cluster", "bad.yaml", code=2)
    assert answer["error"]["details"]["faults"] == [
        {"path": "session_host", "message": "there is no such key; did you mean 'session_hosts'?"}
    ]
    assert not (workdir / "n").exists()
