"""Each listening port of a running platform, asked by one who has no credential."""

from __future__ import annotations

import subprocess
import sys

import grpc
import orjson
import psutil
import pytest

from tests.e2e.conftest import WAIT_SECS, Machine, environment
from tests.e2e.ports import LOOPBACK, Port, http, listening, speaks_grpc

pytestmark = [pytest.mark.attack, pytest.mark.requirement("SEC-01")]

# Calls of every service that Ray and Serve offer by gRPC; each would tell or do something.
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.RuntimeEnvService/GetRuntimeEnvsInfo",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/Init",
    "/ray.rpc.RayletDataStreamer/Datapath",
    "/ray.serve.RayServeAPIService/ListApplications",
    "/ray.serve.ASGIService/HandleRequest",
)
REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}
GUARDED = ("gcs_server", "raylet", "ray::ServeReplica", "ray::ServeController", "ray::")
"""Owners that offer Ray's services; each must ask for the token on at least one port."""
PATHS = (
    "/",
    "/api/version",
    "/api/jobs/",
    "/api/cluster_status",
    "/nodes?view=summary",
    "/metrics",
)


@pytest.fixture(scope="module")
def ports(machine: Machine) -> list[Port]:
    tree = psutil.Process(machine.pid)
    ours = [tree, *tree.children(recursive=True)]
    ours += [machine.embedded(name) for name in ("postgres", "redis", "graph")]
    found = listening(ours)
    assert len(found) > 10
    assert {port.ip for port in found} <= LOOPBACK
    return found


def call(port: Port, method: str) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{port.number}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=20)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_no_service_of_ray_answers_without_the_token(ports: list[Port]) -> None:
    asked: dict[str, set[grpc.StatusCode]] = {}
    for port in ports:
        if port.owner == "haproxy" or not speaks_grpc(port):
            continue
        answers = {method: call(port, method) for method in METHODS}
        assert set(answers.values()) <= REFUSED, (port, answers)
        asked.setdefault(port.owner, set()).update(answers.values())
    for owner in GUARDED:
        assert grpc.StatusCode.UNAUTHENTICATED in asked[owner], owner


def test_no_dashboard_and_no_jobs_are_reachable_and_no_answer_holds_a_secret(
    machine: Machine, ports: list[Port]
) -> None:
    secrets = [(machine.state_dir / "ray-token").read_bytes().strip()]
    secrets += [
        value.encode()
        for value in orjson.loads((machine.state_dir / "secrets.json").read_bytes()).values()
        if isinstance(value, str) and len(value) >= 16
    ]
    assert len(secrets) >= 3
    for port in ports:
        for path in PATHS:
            answer = http(port, path)
            assert not [secret for secret in secrets if secret in answer], (port, path)
            assert b"ray_version" not in answer, (port, path)
            assert b"submission_id" not in answer, (port, path)


def test_the_token_of_ray_is_in_a_file_of_its_owner_and_nowhere_else(machine: Machine) -> None:
    path = machine.state_dir / "ray-token"
    assert path.stat().st_mode & 0o077 == 0
    token, tree = path.read_text().strip(), psutil.Process(machine.pid)
    for process in (tree, *tree.children(recursive=True)):
        try:
            shown = [*process.cmdline(), *process.environ().values()]
        except psutil.NoSuchProcess:
            continue
        assert not [text for text in shown if token in text], process


def test_an_answer_has_one_request_id_and_names_no_server(machine: Machine) -> None:
    port = Port("haproxy", "127.0.0.1", int(machine.url.rpartition(":")[2]))
    for path in ("/health/live", "/api/v1/auth/me", "/nowhere"):
        head = http(port, path).partition(b"\r\n\r\n")[0].lower()
        assert head.count(b"\r\nx-request-id: ") == 1, head
        assert b"\r\nx-request-id: req_" in head
        assert b"\r\nserver:" not in head


def test_up_refuses_to_serve_the_network_in_clear_text(machine: Machine) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentcy_ray.cli", "up", "--json"],
        env=environment(machine.workdir / "never") | {"AGENTCY_HOST": "0.0.0.0"},
        capture_output=True, text=True, timeout=WAIT_SECS,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    error = orjson.loads(done.stdout)["error"]
    assert error["code"] == "listener_unguarded"
    for way in ("AGENTCY_TLS_CERT", "AGENTCY_BEHIND_TLS_PROXY=true", "127.0.0.1"):
        assert way in error["message"]
    assert not (machine.workdir / "never").exists()
