"""The control of HTTP figures: Ray Serve as we start it, with a deployment that does nothing.

``python -m benchmarks.bare_serve FOLDER PORT`` serves ``POST /noop`` behind HAProxy with the same
switches as the platform, in a cluster of its own: a tool call is answered with what a no-op tool
would give, ``{"calls": […]}`` with a list of that. No login, policy, audit, store or session host.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime import cluster
from agentcy_ray.runtime.cluster_config.load import load_cluster_config
from agentcy_ray.stores.embedded.ports import choose

READY = "ready"


@contextmanager
def bare_serve() -> Generator[str]:
    """Run the control in a process of its own; gives the URL of its route."""
    port = choose([])
    with tempfile.TemporaryDirectory(prefix="agc-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_serve", folder, str(port)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip() == READY:
                    break
            else:
                raise RuntimeError("the bare Serve deployment did not start")
            yield f"http://127.0.0.1:{port}/noop"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def main(folder: str, port: int) -> None:
    """Serve until the process is told to end."""
    settings = Settings.load({}, agentcy_state_dir=Path(folder) / "s", agentcy_port=port)
    prepared = cluster.prepare(settings, port)
    cluster.start(settings, load_cluster_config(None))
    _deploy(settings, port)
    print(READY, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})

    from ray import serve

    serve.shutdown()
    cluster.stop()
    prepared.reserved.release()


def _deploy(settings: Settings, port: int) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    app = FastAPI()

    @app.post("/noop")
    async def noop(request: Request) -> Any:
        body = await request.json()
        answer = {"status": "completed", "result": {"found": True}}
        return {"results": [answer for _ in body["calls"]]} if "calls" in body else answer

    @serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    @serve.ingress(app)  # pyright: ignore[reportUntypedClassDecorator]
    class Noop:
        """Nothing but the route."""

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(
        http_options=HTTPOptions(host=settings.agentcy_host, port=port), logging_config=quiet
    )
    serve.run(Noop.options(logging_config=quiet).bind(), name="noop", route_prefix="/")


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(sys.argv[1], int(sys.argv[2]))
