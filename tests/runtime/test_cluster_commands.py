"""``agentcy cluster``: what its commands answer, and with which exit code."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentcy_ray.cli import main as cli
from agentcy_ray.runtime import haproxy

EXAMPLE = str(Path(__file__).parents[2] / "cluster/examples/gpu.yaml")
Run = Callable[..., Any]


@pytest.fixture
def agentcy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``agentcy cluster … --json`` here; its JSON, after its exit code was as expected."""
    monkeypatch.delenv("AGENTCY_CLUSTER_CONFIG", raising=False)

    def run(*words: str, code: int = 0) -> Any:
        monkeypatch.setattr("sys.argv", ["agentcy", "cluster", *words, "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code == code, said.out + said.err
        return orjson.loads(said.out)

    return run


def test_a_config_that_fits_is_fine_and_one_that_does_not_says_why(
    agentcy: Run, tmp_path: Path
) -> None:
    assert agentcy("validate", EXAMPLE) == {"ok": True, "faults": []}
    crowded = tmp_path / "crowded.yaml"
    crowded.write_text(
        "agent: {replicas: {min: 5, max: 5}, num_cpus: 1}\n"
        "nodes: [{name: head, role: head, cpus: 2, memory: 8Gi}]\n"
    )
    answer = agentcy("validate", str(crowded), code=1)
    assert [fault["path"] for fault in answer["faults"]] == ["agent"]
    assert agentcy("plan", str(crowded), code=1)["fits"] is False


def test_the_setting_names_the_config_when_the_command_does_not(
    agentcy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCY_CLUSTER_CONFIG", EXAMPLE)
    assert {row["group"] for row in agentcy("plan")["nodes"]} == {"head", "cpu", "gpu-l4"}


@pytest.mark.requirement("CLI-04")
def test_a_plan_is_made_for_another_number_of_calls(agentcy: Run) -> None:
    answer = agentcy("plan", EXAMPLE, "--calls-per-minute", "240000")
    assert answer["calls_per_minute"] == 240_000
    assert {row["part"]: row["needed"] for row in answer["hot_path"]} == {
        "api": 4, "agent": 4, "session_hosts": 2,
    }  # fmt: skip


@pytest.mark.parametrize("target", ["serve", "kuberay", "helm", "ray-up"])
def test_a_rendering_is_printed_or_written(agentcy: Run, tmp_path: Path, target: str) -> None:
    files = agentcy("render", EXAMPLE, "--to", target)["files"]
    out = tmp_path / "out"
    written = agentcy("render", EXAMPLE, "--to", target, "--out", str(out))["written"]
    paths = [out if name == "-" else out / name for name in files]
    assert written == [str(path) for path in paths]
    assert [path.read_text() for path in paths] == list(files.values())


def test_faults_and_wrong_use_end_with_the_code_of_usage(agentcy: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("colour: blue\n")
    answer = agentcy("render", str(wrong), "--to", "serve", code=2)
    assert answer["error"]["code"] == "cluster_config_invalid"
    assert answer["error"]["details"]["faults"][0]["path"] == "colour"
    assert agentcy("render", EXAMPLE, "--to", "compose", code=2)["error"]["code"] == "usage"
    beyond = str(wrong / "below-a-file")
    assert "choose another --out" in agentcy(
        "render", EXAMPLE, "--to", "serve", "--out", beyond, code=2
    )["error"]["message"]  # fmt: skip


@pytest.mark.parametrize(("files", "kept"), [(1200, 400), (200_000, 20_000)])
def test_the_ingress_of_a_node_holds_what_its_open_files_allow(
    tmp_path: Path, files: int, kept: int
) -> None:
    shown = tmp_path / "shown"
    shown.write_text('#!/bin/sh\ncat "$2"\n')
    shown.chmod(0o700)
    wrapper = haproxy.install(tmp_path / "ingress", str(shown))
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"global\n    maxconn {haproxy.MOST_CONNECTIONS}\n")
    # The limit is what the shell says it is; raising the real one may not be allowed here.
    body = wrapper.read_text().replace("$(ulimit -Hn)", str(files))
    wrapper.write_text(body)
    done = subprocess.run([wrapper, "-f", config], capture_output=True, text=True, timeout=30)
    assert done.stdout.split()[-1] == str(kept)
