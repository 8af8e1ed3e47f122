"""Bare servers of idle SSE streams, each in processes of its own: what a stream costs without us.

``uvicorn``: Starlette on uvicorn, one process. ``serve_default``: the same application on Ray Serve
as it comes, behind its Python proxy. ``serve_haproxy``: on Serve as we run it, with HAProxy and the
throughput flag. ``serve_direct``: the same, past HAProxy, at the port of the replica.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from agentcy_ray.core.settings import Settings

CONTROLS = ("uvicorn", "serve_default", "serve_haproxy", "serve_direct")
ROUTE = "/stream"
START_SECS = 180.0


@asynccontextmanager
async def bare_server(name: str) -> AsyncGenerator[tuple[str, Path]]:
    """The address of a control, and the folder that all of its processes have in their words."""
    with tempfile.TemporaryDirectory(prefix="agb-") as folder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.sse_controls", name, folder,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            async with asyncio.timeout(START_SECS):
                url = (await process.stdout.readline()).decode().strip()
            if not url:
                raise RuntimeError(f"the control {name} did not start; its last words are above")
            yield url, Path(folder)
        finally:
            process.stdin.close()  # asks it to leave
            await process.wait()


async def _stream(_: Request) -> StreamingResponse:
    async def frames() -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        await asyncio.Event().wait()

    return StreamingResponse(frames(), media_type="text/event-stream")


def application() -> Starlette:
    """One route that says one thing and then nothing."""
    return Starlette(routes=[Route(ROUTE, _stream)])


def _tell(port: int) -> None:
    """Give the address to whoever started this process, and wait until it wants no more."""
    sys.stdout.write(f"http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    sys.stdin.read()


def _uvicorn() -> None:
    import threading

    import uvicorn

    from agentcy_ray.stores.embedded.ports import choose

    port = choose([])
    config = uvicorn.Config(
        application(), host="127.0.0.1", port=port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=0,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = threading.Thread(target=server.run)
    serving.start()
    while not server.started and serving.is_alive():
        serving.join(0.05)
    _tell(port)
    server.should_exit = True
    serving.join()


def _serve(folder: str, *, flags: bool, direct: bool) -> None:
    from agentcy_ray.runtime import cluster
    from agentcy_ray.runtime.cluster_config import load_cluster_config
    from agentcy_ray.stores.embedded.ports import choose

    settings = Settings.load(agentcy_state_dir=Path(folder) / "s", agentcy_host="127.0.0.1")
    port = choose([])
    prepared = cluster.prepare(settings, port)
    if not flags:
        for name in ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"):
            os.environ.pop(name, None)
    cluster.start(settings, load_cluster_config(None))
    from ray import serve
    from ray.serve.config import HTTPOptions

    from agentcy_ray.runtime.render.serve import QUIET

    options = serve.deployment(name="bare", max_ongoing_requests=100_000, logging_config=QUIET)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=QUIET)
    serve.run(options(serve.ingress(application)(_Bare)).bind(), route_prefix="/")
    _tell(int(os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"]) if direct else port)
    cluster.stop()
    prepared.reserved.release()


class _Bare:
    """Nothing besides the application."""


def main() -> None:
    """Serve the control that is named until the standard input ends."""
    name, folder = sys.argv[1:]
    os.environ["AGENTCY_STATE_DIR"] = str(Path(folder) / "s")
    if name == "uvicorn":
        _uvicorn()
    else:
        _serve(folder, flags=name != "serve_default", direct=name == "serve_direct")


if __name__ == "__main__":
    main()
