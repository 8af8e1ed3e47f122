"""A platform with two models of its own on vLLM's CPU build, and a second driver beside it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import orjson
import psutil
import pytest

from agentcy_ray.cli import patience
from agentcy_ray.runtime.cluster_config import ClusterConfig, load_cluster_config
from tests.e2e.conftest import WAIT_SECS, Machine, environment, repository, workdir
from tests.vllm.chat_model import WINDOW

if TYPE_CHECKING:
    from agentcy_ray.runtime.served_models import ServedModels

__all__ = ["repository", "workdir"]

READY_SECS = 600
"""Two engines start one after the other, each of which loads vLLM three times."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests out unless they are asked for: `make test` has no vLLM."""
    if "vllm" not in config.option.markexpr:
        items[:] = [item for item in items if item.get_closest_marker("vllm") is None]


def model(name: str, folder: Path, task: str, **more: Any) -> dict[str, Any]:
    """A model of the cluster config for a CPU."""
    return {
        "name": name,
        "path": str(folder),
        "task": task,
        "device": "cpu",
        "max_model_len": WINDOW,
        "environment": {"OMP_NUM_THREADS": "1"},
        "engine_args": {
            "dtype": "float32",
            "enforce_eager": True,
            "max_num_seqs": 8,
            "kv_cache_memory_bytes": 128 * 2**20,
        },
        **more,
    }


@pytest.fixture(scope="session")
def folder(workdir: Path) -> Path:
    """Weights, tokenizer and template of the model made on the spot."""
    made = workdir / "tiny"
    # A process of its own: torch would stay in this one, which has nothing more to do with it.
    subprocess.run(
        [sys.executable, "-m", "tests.vllm.chat_model", str(made)],
        cwd=Path(__file__).parents[2], check=True, capture_output=True, timeout=READY_SECS,
    )  # fmt: skip
    return made


@pytest.fixture(scope="session")
def machine(workdir: Path, folder: Path) -> Iterator[Machine]:
    """`agentcy up` with ``local:tiny`` as its default model, and ``vllm:tiny-embed``."""
    config = {
        "models": [
            model("tiny", folder, "chat", tool_parser="hermes"),
            model("tiny-embed", folder, "embed"),
        ]
    }
    path = workdir / "models.yaml"
    path.write_text(json.dumps(config))
    state_dir = workdir / "s"
    variables = environment(state_dir) | {"LLM_PROVIDER": "local"}
    done = subprocess.run(
        [sys.executable, "-m", "agentcy_ray.cli", "up", "--detach", "--json",
         "--cluster", str(path)],
        cwd=workdir, env=variables, capture_output=True, text=True, timeout=WAIT_SECS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    running = orjson.loads(done.stdout)
    started = Machine(state_dir, workdir, running["pid"], running["url"])
    try:
        await_models(started)
        yield started
    finally:
        subprocess.run(
            [sys.executable, "-m", "agentcy_ray.cli", "down"],
            env=variables, capture_output=True, timeout=WAIT_SECS,
        )  # fmt: skip


def await_models(machine: Machine) -> None:
    """Ask ``/health`` until the models are ready, as an operator would."""

    async def ready() -> bool | None:
        health = (await asyncio.to_thread(httpx.get, f"{machine.url}/health", timeout=60)).json()
        assert "error" not in health, health
        state = health.get("checks", {}).get("local_models", "the platform starts")
        assert "failed" not in state, state
        return state == "ok" or None

    asyncio.run(patience.until(ready, limit_secs=READY_SECS, every_secs=1))


@pytest.fixture(scope="session")
def joined(machine: Machine) -> Iterator[ClusterConfig]:
    """This process as another driver of the platform's cluster; gives its config.

    Ray reads how to authenticate when it is imported, so nothing may have imported it before.
    """
    assert "ray" not in sys.modules
    [gcs] = machine.processes("gcs_server")
    ports = [c.laddr.port for c in gcs.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(machine.state_dir / "ray-token"))
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_SERVE_USE_GRPC_BY_DEFAULT", "0")
        patch.setenv("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
        import ray

        ray.init(
            address=f"127.0.0.1:{ports[0]}",
            namespace="agentcy",
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
        yield load_cluster_config(str(machine.workdir / "models.yaml"))
        ray.shutdown()


@pytest.fixture(scope="session")
def served(joined: ClusterConfig) -> ServedModels:
    """The models by deployment handle."""
    from agentcy_ray.runtime.served_models import ServedModels

    return ServedModels(joined.models)


async def busy(name: str) -> dict[str, int]:
    """What a replica says of its requests."""
    from ray import serve

    from agentcy_ray.runtime.llm_config import APP_PREFIX

    handle: Any = await asyncio.to_thread(serve.get_app_handle, f"{APP_PREFIX}{name}")
    return dict(await handle.busy.remote())
