"""Processes that are killed while the platform works: what was accepted is finished, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pygit2
import pytest

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.event_stream import ServerEvent
from agentcy_ray.cli.patience import until
from agentcy_ray.cli.server import healthy
from agentcy_ray.core.settings import Settings
from tests.e2e.conftest import Machine

pytestmark = pytest.mark.chaos
LIMIT_SECS = 120
LONG = "scripted:ttft=50,itl=20,tokens=250,seed=3"


@pytest.fixture
async def client(machine: Machine) -> AsyncIterator[Client]:
    settings = Settings.load({}, agentcy_state_dir=machine.state_dir, agentcy_url=machine.url)
    async with Client(settings, machine.url) as opened:
        opened._login = {}
        await opened.login("admin@localhost", _password(machine))
        yield opened


def _password(machine: Machine) -> str:
    import orjson

    return str(orjson.loads((machine.state_dir / "secrets.json").read_bytes())["admin_password"])


async def ask(client: Client, during: Callable[[], None] | None) -> list[ServerEvent]:
    """Ask a long question; ``during`` runs once, in the middle of the answer."""
    conversation = await client.post("/chat/conversations", {"title": "fault"})
    events: list[ServerEvent] = []
    deltas = 0
    async for event in client.ask(conversation["id"], {"content": "go on", "model": LONG}):
        events.append(event)
        deltas += event.type == "content_delta"
        if deltas == 3 and during is not None:
            during()
            during = None
    return events


def whole(events: list[ServerEvent]) -> str:
    """The text of an answer whose log has no gap and one end."""
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events if event.type in {"message_end", "error"}] == [
        "message_end"
    ]
    return "".join(event.data["delta"] for event in events if event.type == "content_delta")


def kill(*processes: psutil.Process) -> None:
    assert processes
    for process in processes:
        process.kill()


def big_repository(path: Path) -> Path:
    repo = pygit2.init_repository(str(path), bare=True, initial_head="main")
    author = pygit2.Signature("Grace", "grace@example.org", 1_700_000_000, 0)
    parents: list[Any] = []
    for number in range(300):
        blob = repo.create_blob(f"Line {number} about leases and epochs.\n".encode() * 20)
        builder = repo.TreeBuilder()
        builder.insert(f"part{number}.md", blob, pygit2.enums.FileMode.BLOB)
        message = f"Commit {number} about leases"
        parents = [repo.create_commit(None, author, author, message, builder.write(), parents)]
    repo.create_reference("refs/heads/main", parents[0])
    return path


@pytest.mark.requirement("SSE-02", "CLU-05")
async def test_a_client_of_a_killed_api_replica_gets_each_event_once(
    machine: Machine, client: Client
) -> None:
    undisturbed = whole(await ask(client, None))
    api = machine.processes("ray::ServeReplica:agentcy:api")
    assert whole(await ask(client, lambda: kill(*api))) == undisturbed


@pytest.mark.parametrize("server", ["postgres", "redis"])
async def test_a_stream_outlives_the_death_of_a_store(
    machine: Machine, client: Client, server: str
) -> None:
    await healthy(client, LIMIT_SECS)
    process = machine.embedded(server)
    # The model's turn is begun anew when its log could not be written; readers are told so.
    events = await ask(client, lambda: kill(process))
    assert events[-1].type == "message_end"
    assert [event.id for event in events] == list(range(1, len(events) + 1))


@pytest.mark.requirement("JOB-05", "CLU-05")
@pytest.mark.parametrize("victim", ["ingest", "graph"])
async def test_a_sync_is_finished_after_its_worker_or_the_graph_server_was_killed(
    machine: Machine, client: Client, victim: str
) -> None:
    name = f"victim-{victim}"
    place = big_repository(machine.workdir / name)
    source = await client.post(
        "/sources", {"name": name, "connector": "git", "config": {"url": str(place)}}
    )
    started = await client.post(f"/sources/{source['id']}/sync", {})

    async def run(*states: str) -> dict[str, Any] | None:
        found = await client.get(f"/sync-runs/{started['sync_run_id']}")
        return found if found["status"] in states else None

    await until(lambda: run("running", "publishing", "synced"), limit_secs=LIMIT_SECS)
    if victim == "ingest":
        kill(*machine.processes("ray::IngestWorker"))
    else:
        kill(machine.embedded("graph"))
    ended = await until(lambda: run("synced", "failed"), limit_secs=LIMIT_SECS)
    assert ended["status"] == "synced", ended["error"]

    async def counted() -> list[Any] | None:
        answer = await client.post(
            "/context/query",
            {
                "query": "MATCH (c:GitCommit) WHERE c.source_id = $source "
                "RETURN count(c) AS commits",
                "params": {"source": _uuid_hex(source["id"])},
            },
        )
        return answer["rows"]

    assert await until(counted, limit_secs=LIMIT_SECS) == [[300]]


def _uuid_hex(text: str) -> str:
    from agentcy_ray.core.ids import decode

    return decode("src", text).hex


async def test_health_names_a_shared_actor_that_does_not_answer(
    machine: Machine, client: Client
) -> None:
    await healthy(client, LIMIT_SECS)
    [worker] = machine.processes("ray::IngestWorker")
    worker.suspend()
    try:
        state = await client.health()
        away = {name for name, answer in state["checks"].items() if answer != "ok"}
        assert (state["status"], away) == ("degraded", {"ray"})
        assert "ingest-0" in state["checks"]["ray"]
    finally:
        worker.resume()
    await healthy(client, LIMIT_SECS)


@pytest.mark.requirement("TOOL-08")
async def test_a_read_in_flight_on_a_killed_session_host_is_repeated(
    machine: Machine, client: Client
) -> None:
    await client.post(
        "/sources",
        {
            "name": "slow-demo",
            "connector": "demo",
            "config": {"entities": 50, "tool_latency_ms": 3000},
        },
    )
    conversation = await client.post("/chat/conversations", {"title": "host"})
    tools = await client.items("/catalog/tools")
    assert any(tool["name"] == "demo.lookup" for tool in tools)
    path = f"/chat/conversations/{conversation['id']}/tool-calls"
    call = asyncio.create_task(
        client.post(path, {"connector": "demo", "tool": "lookup", "args": {"id": "service-3"}})
    )
    hosts = machine.processes("ray::SessionHost")
    await asyncio.wait({call}, timeout=0.9)
    kill(*hosts)
    answer = await asyncio.wait_for(call, LIMIT_SECS)
    assert answer["status"] == "completed"
