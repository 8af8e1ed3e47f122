"""``agentcy up``, ``down``, ``status``, ``logs``, ``token``."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import (
    FAILED,
    UNREACHABLE,
    JsonFlag,
    ServerUnreachableError,
    console,
    notes,
    print_json,
    print_rows,
)
from agentcy_ray.cli.patience import until
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.core.logs import set_up_logs
from agentcy_ray.core.settings import Settings, child_environment, export_environment, unclaimed
from agentcy_ray.runtime.cluster_config import load_cluster_config
from agentcy_ray.runtime.listener import require_guarded
from agentcy_ray.serve.launch import Platform, Running, read_running
from agentcy_ray.stores.embedded import status as embedded_status
from agentcy_ray.stores.embedded import stop_embedded

START_LIMIT_SECS = 180
STOP_LIMIT_SECS = 60


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (up, down, status, logs, token):
        app.command(command.__name__)(command)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running.")] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="The cluster config to start by.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Start everything on this machine: stores, Ray, API, agents."""
    if cluster is not None:
        # A variable, and an absolute path: every process that is started reads it by itself.
        path = str(Path(cluster).expanduser().absolute())
        export_environment({"AGENTCY_CLUSTER_CONFIG": path}, override=True)
    settings = Settings.load()
    set_up_logs(settings)
    # Faults show before anything starts.
    load_cluster_config(settings.agentcy_cluster_config)
    require_guarded(settings)
    if detach:
        report(start_detached(settings), settings, as_json=json)
        return
    for warning in unclaimed():
        notes().print(f"[yellow]{warning}[/]")
    ended = threading.Event()

    def stop(_signal: int, _frame: object) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    platform = Platform(settings, say=lambda text: notes().print(f"[dim]· {text}[/]"))
    running = platform.start()
    try:
        report(running, settings, as_json=json)
        ended.wait()
        notes().print("[dim]· stopping[/]")
    finally:
        platform.stop()


def start_detached(settings: Settings) -> Running:
    """Start ``agentcy up`` as a process of its own and wait until it serves.

    Raises:
        ConfigError: it already runs, or it refused to start; the message is its own.
    """
    running = read_running(settings.state_dir)
    if running is not None:
        raise ConfigError(
            f"the platform already runs at {running.url} (pid {running.pid}); `agentcy down` "
            "stops it",
            code="already_running",
            pid=running.pid,
        )
    log = log_file(settings)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    log.parent.mkdir(exist_ok=True, mode=0o700)
    with log.open("wb") as sink, notes().status("starting the platform"):
        process = subprocess.Popen(
            [sys.executable, "-m", "agentcy_ray.cli", "up"],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=child_environment(settings),
            start_new_session=True,
        )
        deadline = time.monotonic() + START_LIMIT_SECS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ConfigError(f"the platform did not start:\n{log.read_text().strip()}")
            running = read_running(settings.state_dir)
            if running is not None:
                return running
            time.sleep(0.1)
    process.terminate()
    raise StoreUnavailableError(f"no start within {START_LIMIT_SECS} s; see {log}")


def down(json: JsonFlag = False) -> None:
    """Stop everything that runs on this state folder."""
    settings = Settings.load()
    running = read_running(settings.state_dir)
    if running is not None:
        stop_process(running.pid)
    stopped = asyncio.run(stop_embedded(settings)) or running is not None
    if json:
        print_json({"stopped": stopped})
    else:
        console().print("stopped" if stopped else "nothing runs here")


def stop_process(pid: int) -> None:
    """Ask a platform to stop and wait until it has; end it when it does not."""
    try:
        process = psutil.Process(pid)
        process.terminate()
        with notes().status("stopping"):
            process.wait(STOP_LIMIT_SECS)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)


def status(
    wait: Annotated[
        float, typer.Option(help="Wait so many seconds until every part is well.", min=0)
    ] = 0,
    json: JsonFlag = False,
) -> None:
    """What runs, and how it is."""
    settings = Settings.load()
    running = read_running(settings.state_dir)
    servers = [vars_of(server) for server in embedded_status(settings)]

    async def health() -> dict[str, Any] | None:
        async with Client(settings) as client:
            try:
                return await (healthy(client, wait) if wait else client.health())
            except ServerUnreachableError:
                return None
            except TimeoutError:
                return await client.health()

    parts = asyncio.run(health())
    if json:
        print_json({
            "running": running.__dict__ if running else None, "health": parts, "servers": servers
        })  # fmt: skip
    else:
        if running:
            console().print(f"{running.url} · pid {running.pid} · since {running.started_at}")
        if servers:
            for server in servers:
                server["ports"] = [f"{use} {port}" for use, port in server["ports"].items()]
            columns = ["name", "state", "pid", "restarts", "version", "ports", "error"]
            print_rows(servers, columns, title="embedded servers")
        if parts:
            rows = [{"part": k, "state": v} for k, v in parts["checks"].items()]
            print_rows(rows, ["part", "state"], title=f"platform: {parts['status']}")
    if parts is None:
        if not json:
            notes().print("the platform is not up; start it with `agentcy up`")
        raise typer.Exit(UNREACHABLE)
    if parts["status"] != "ok":
        raise typer.Exit(FAILED)


async def healthy(client: Client, limit_secs: float) -> dict[str, Any]:
    """The platform's health once every part is well.

    Raises:
        ServerUnreachableError: nothing answers in ``limit_secs``.
        TimeoutError: it answers, and a part is not well.
    """

    async def look() -> dict[str, Any] | None:
        found = await client.health()
        return found if found["status"] == "ok" else None

    return await until(look, limit_secs=limit_secs, outage_secs=limit_secs, every_secs=0.1)


def logs(json: JsonFlag = False) -> None:
    """Where the logs lie, with the last lines of the platform's own."""
    settings = Settings.load()
    folder = settings.state_dir / "logs"
    files = [
        {"file": str(path), "bytes": path.stat().st_size} for path in sorted(folder.glob("*.log"))
    ]
    if json:
        print_json(files)
        return
    print_rows(files, ["file", "bytes"])
    if log_file(settings).exists():
        console().print("\n".join(log_file(settings).read_text().splitlines()[-20:]), markup=False)


def token(json: JsonFlag = False) -> None:
    """A bearer token of your login, for clients of OpenAI, Anthropic and others."""
    found = call(lambda client: client.token())
    if json:
        print_json({"token": found})
    else:
        console().print(found, markup=False)


def report(running: Running, settings: Settings, *, as_json: bool) -> None:
    """Say where the platform is and how to get in."""
    if as_json:
        print_json(running.__dict__)
        return
    out = console()
    out.print(f"[bold green]up[/] at {running.url} after {running.warm_up_secs:.1f} s")
    out.print(f"  API reference   {running.url}/api/v1/openapi.json")
    out.print(f"  OpenAI clients  base URL {running.url}/v1, key from `agentcy token`")
    out.print(f"  owner           {settings.admin_email}, first password in "
              f"{settings.state_dir / 'secrets.json'}")  # fmt: skip
    out.print("  next            agentcy sources add code git --set url=PATH_OR_URL")
    out.print("  stop            agentcy down")


def log_file(settings: Settings) -> Path:
    """The log of a detached platform."""
    return settings.state_dir / "logs" / "up.log"


def vars_of(server: Any) -> dict[str, Any]:
    """A status record as a row."""
    return {name: getattr(server, name) for name in server.__dataclass_fields__}
