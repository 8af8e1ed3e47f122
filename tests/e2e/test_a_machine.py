"""What `agentcy up` leaves on a machine: one platform on loopback, hardened, gone at the end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import httpx2 as httpx
import orjson
import psutil
import pytest

from tests.e2e.conftest import WAIT_SECS, Machine, environment

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.requirement("RUN-05")
def test_a_second_up_is_refused_and_names_the_first(machine: Machine) -> None:
    answer = machine.agentcy("up", code=2)
    assert answer["error"]["code"] == "already_running"
    assert str(machine.pid) in answer["error"]["message"]


@pytest.mark.requirement("SEC-01", "RUN-04")
def test_every_port_of_the_platform_is_on_loopback(machine: Machine) -> None:
    ours = [psutil.Process(machine.pid), *psutil.Process(machine.pid).children(recursive=True)]
    ours += [machine.embedded(name) for name in ("postgres", "redis", "graph")]
    listening = {
        (process.name(), connection.laddr.ip, connection.laddr.port)
        for process in ours
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(listening) > 5
    assert not [entry for entry in listening if entry[1] not in LOOPBACK]


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize("token", [None, "0" * 64])
def test_ray_lets_nobody_in_without_the_token(machine: Machine, token: str | None) -> None:
    [gcs] = machine.processes("gcs_server")
    ports = [c.laddr.port for c in gcs.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    script = (
        "import sys; from ray._raylet import GcsClient\n"
        "print(GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None, timeout=20))\n"
    )
    home = machine.workdir / "nobody-home"
    home.mkdir(exist_ok=True)
    theirs = {"HOME": str(home), "RAY_AUTH_MODE": "token" if token else "disabled"}
    if token:
        theirs["RAY_AUTH_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-c", script, f"127.0.0.1:{ports[0]}"],
        env=environment(machine.state_dir) | theirs,
        capture_output=True,
        text=True,
        timeout=WAIT_SECS,
    )
    assert done.returncode != 0
    assert "authenticat" in done.stderr.lower()


@pytest.mark.requirement("CLU-06")
def test_requests_enter_through_haproxy(machine: Machine) -> None:
    port = int(machine.url.rsplit(":", 1)[1])
    holders = {
        process.name()
        for process in psutil.Process(machine.pid).children(recursive=True)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    assert holders == {"haproxy"}


@pytest.mark.requirement("CLU-01", "CLU-02", "ING-01")
def test_api_and_agent_are_deployments_and_the_rest_are_actors(machine: Machine) -> None:
    for part in (
        "ServeReplica:agentcy:api", "ServeReplica:agentcy-agent:agent", "SessionHost",
        "IngestWorker", "EmbeddingActor",
    ):  # fmt: skip
        assert machine.processes(f"ray::{part}"), f"no process of {part}"


@pytest.mark.requirement("LLM-06")
def test_health_names_every_part_and_the_model_without_a_key(machine: Machine) -> None:
    body = httpx.get(f"{machine.url}/health", timeout=30).json()
    assert body["status"] == "ok"
    assert body["checks"] == dict.fromkeys(
        ("database", "redis", "context_engine", "object_store", "model", "ray"), "ok"
    )
    assert body["default_model"] == "offline:extractive"


def test_secrets_of_the_install_are_readable_by_its_user_only(machine: Machine) -> None:
    for name in ("secrets.json", "embedded.json", "ray-token"):
        assert (machine.state_dir / name).stat().st_mode & 0o077 == 0, name
    assert machine.state_dir.stat().st_mode & 0o077 == 0


@pytest.mark.requirement("CLI-01")
def test_errors_of_commands_are_json_with_the_documented_exit_code(machine: Machine) -> None:
    absent = machine.agentcy("sources", "sync", "nowhere", code=1)
    assert absent["error"]["code"] == "not_found"
    usage = machine.agentcy("query", code=2)
    assert usage["error"]["code"] == "usage"
    refused = machine.agentcy("query", "CREATE (n) RETURN n", code=2)
    assert refused["error"]["code"] == "query_rejected"


@pytest.mark.requirement("CLI-03")
def test_config_explain_lists_settings_with_origin_and_masks_secrets(machine: Machine) -> None:
    rows = {row["name"]: row for row in machine.agentcy("config", "explain")}
    assert rows["AGENTCY_STATE_DIR"]["origin"] == "environment"
    assert rows["HNSW_M"] | {"meaning": ""} == {
        "name": "HNSW_M", "value": "16", "origin": "default", "meaning": "",
    }  # fmt: skip
    assert all(row["meaning"] for row in rows.values())


@pytest.mark.requirement("CLI-02")
def test_doctor_holds_versions_against_the_minimums(machine: Machine) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentcy_ray.cli", "doctor", "--json"],
        env=machine.environment, capture_output=True, text=True, timeout=WAIT_SECS,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    checks = {row["check"]: row for row in orjson.loads(done.stdout)}
    assert checks["postgres"]["needed"] == ">= 14"
    assert checks["kernel"]["needed"] == ">= 4.19"
    assert all(row["remedy"] for row in checks.values() if row["state"] != "ok")


@pytest.mark.requirement("RUN-06", "KYMA-06")
def test_a_demo_on_the_advanced_engine_does_the_main_job_and_leaves_nothing_behind(
    repository: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="ae2e-") as folder:
        state_dir = Path(folder) / "s"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "agentcy_ray.cli", "demo", str(repository), "--yes"),
                *("--once", "--engine", "advanced", "--json"),
                *("--question", "How long do the retries of part 3 wait?"),
            ],
            env=environment(state_dir), check=True, capture_output=True, timeout=WAIT_SECS,
        )  # fmt: skip
        facts = orjson.loads(done.stdout)
        assert facts["engine"] == "advanced"
        assert facts["sync"]["counts"]["nodes"]["added"] == 12 + 12 + 3
        assert facts["stats"]["labels"]["GitCommit"] == 12
        assert ["Ada", 12, 12] in [row[:3] for row in facts["traversal"]["rows"]]
        assert "4 seconds" in facts["answer"]["text"]
        assert facts["answer"]["citations"]
        assert facts["action"]["status"] == "completed"
        left = [
            " ".join(process.info["cmdline"] or [])[:120]
            for process in psutil.process_iter(["cmdline"])
            if any(str(state_dir) in word for word in process.info["cmdline"] or [])
        ]
        assert not left
