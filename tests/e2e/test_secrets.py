"""Secrets on a whole platform: their key changes under load, and nothing tells them."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import httpx2 as httpx
import orjson
import psutil
import pytest

from agentcy_ray.cli import patience
from agentcy_ray.core.settings import Settings
from tests.e2e.conftest import CANARY, Machine
from tests.e2e.leaks import Leaks

SOURCE_TOKEN = f'{CANARY}/+"of a source"%'
HEADER = f"Bearer {CANARY}.of.a.header"
ARGUMENT = f"{CANARY}-of-an-argument"
CONTROL = "Zaunkoenig1stKeinGeheimnis"
NDJSON = {"content-type": "application/x-ndjson"}


@dataclass
class User:
    """An owner at the API, who keeps what it was answered."""

    http: httpx.AsyncClient
    said: list[bytes] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter[str])

    async def ask(self, method: str, path: str, body: Any = None, **how: Any) -> httpx.Response:
        answer = await self.http.request(method, path, json=body, **how)
        self.said.append(answer.content + repr(answer.headers.multi_items()).encode())
        self.statuses[f"{method} {answer.status_code}"] += 1
        return answer

    async def good(self, method: str, path: str, body: Any = None, **how: Any) -> Any:
        answer = await self.ask(method, path, body, **how)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def source(self, name: str, **config: Any) -> str:
        config = {"token": SOURCE_TOKEN, "headers": {"Authorization": HEADER}, **config}
        made = await self.good("POST", "/sources", {
            "name": name, "connector": "canary", "config": config,
        })  # fmt: skip
        assert made["config"]["token"] == "***"
        return made["id"]

    async def call(self, conversation: str, tool: str, **args: Any) -> httpx.Response:
        path = f"/chat/conversations/{conversation}/tool-calls"
        body = {"connector": "canary", "tool": tool, "args": args, "source": "canary"}
        return await self.ask("POST", path, body)

    async def synced(self, source_id: str) -> dict[str, Any]:
        started = await self.good("POST", f"/sources/{source_id}/sync", {})

        async def ended() -> dict[str, Any] | None:
            run = await self.good("GET", f"/sync-runs/{started['sync_run_id']}")
            return run if run["ended_at"] else None

        return await patience.until(ended, limit_secs=120)


@pytest.fixture(scope="module")
async def user(machine: Machine) -> AsyncIterator[User]:
    password = orjson.loads((machine.state_dir / "secrets.json").read_bytes())["admin_password"]
    async with httpx.AsyncClient(base_url=f"{machine.url}/api/v1", timeout=60) as client:
        login = {"email": "admin@localhost", "password": password}
        answer = await client.post("/auth/login", json=login)
        assert answer.status_code == 200, answer.text
        client.headers["authorization"] = f"Bearer {answer.json()['token']}"
        yield User(client)


@pytest.fixture(scope="module")
async def canary(user: User) -> str:
    return await user.source("canary")


@pytest.fixture(scope="module")
async def conversation(user: User, canary: str) -> str:
    return (await user.good("POST", "/chat/conversations", {"title": "canary"}))["id"]


@pytest.mark.requirement("CON-03")
async def test_the_key_changes_under_load_without_a_failed_request(
    machine: Machine, user: User, canary: str, conversation: str
) -> None:
    """Calls, new configs, new sources, signed posts and syncs go on while every data key moves."""
    pipeline = (await user.good("POST", "/context/pipelines", {
        "name": f"signed-{secrets.token_hex(4)}", "kind": "webhook", "realm": "data",
        "require_signature": True,
    }))["id"]  # fmt: skip
    stop, done = asyncio.Event(), Counter[str]()

    async def calls() -> None:
        answer = await user.call(conversation, "tell")
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "completed"

    async def configs() -> None:  # sealed anew; its session is opened anew
        kept = {"token": "***", "headers": {"Authorization": "***"}}
        await user.good("PATCH", f"/sources/{canary}", {"config": kept})

    async def sources() -> None:
        made = await user.source(f"canary-{secrets.token_hex(4)}")
        await user.good("GET", f"/sources/{made}")
        await user.good("DELETE", f"/sources/{made}")

    async def posts() -> None:  # a new token each time: its secret is opened, not remembered
        path = f"/context/pipelines/{pipeline}/tokens"
        key = await user.http.post(path, json={"with_secret": True})
        assert key.status_code == 201, key.text
        made = key.json()
        body = orjson.dumps({"id": secrets.token_hex(4)})
        signature = hmac.new(made["secret"].encode(), body, sha256).hexdigest()
        answer = await user.http.post(
            f"/ingest/{made['token']}", content=body,
            headers=NDJSON | {"x-agentcy-signature": f"sha256={signature}"},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        await user.good("DELETE", f"{path}/{made['id']}")

    async def syncs() -> None:
        made = await user.source(f"synced-{secrets.token_hex(4)}")
        assert (await user.synced(made))["status"] == "synced"
        await user.good("DELETE", f"/sources/{made}")

    async def on_and_on(*works: Callable[[], Awaitable[None]]) -> None:
        while not stop.is_set():
            for work in works:
                await work()
                done[work.__name__] += 1

    before = await asyncio.to_thread(machine.agentcy, "keys", "status")
    async with asyncio.TaskGroup() as group:
        for works in ((calls,), (configs, sources, posts, syncs)):
            group.create_task(on_and_on(*works))
        try:
            began = time.monotonic()
            rotated = await asyncio.to_thread(machine.agentcy, "keys", "rotate", "--new-key")
            took = time.monotonic() - began
            gone = await asyncio.to_thread(machine.agentcy, "keys", "forget")
            done["until_forgotten"] = sum(done.values())
        finally:
            stop.set()
    assert before["other"] == 0
    assert rotated["key_id"] != before["key_id"]
    assert rotated["moved"] >= 1
    assert (rotated["other"], gone["other"], gone["forgotten"]) == (0, 0, True)
    for work in (calls, configs, sources, posts, syncs):
        assert done[work.__name__] > 0, done
        await work()  # with the former key gone
    print(f"\nrotated {rotated['moved']} in {took:.1f} s beside {dict(done)}, none failed")


@pytest.mark.requirement("SEC-03")
async def test_no_secret_is_found_anywhere_after_a_full_run(
    machine: Machine, user: User, canary: str, conversation: str
) -> None:
    settings = Settings.load({}, agentcy_state_dir=machine.state_dir)
    assert (await user.synced(canary))["status"] == "synced"
    for tool, status in (("tell", 200), ("fail", 502), ("crash", 502)):
        answer = await user.call(conversation, tool, note=CONTROL, api_key=ARGUMENT)
        assert answer.status_code == status, answer.text
    waiting = await user.call(conversation, "send", note=CONTROL, api_key=ARGUMENT)
    assert waiting.status_code == 202, waiting.text
    approval = waiting.json()["approval_id"]
    await user.good("POST", f"/approvals/{approval}", {"approved": True})
    config = {"token": SOURCE_TOKEN, "sings": True}
    refused = await user.ask("POST", "/sources", {
        "name": "singing", "connector": "canary", "config": config,
    })  # fmt: skip
    assert refused.json()["error"]["code"] == "source_config_invalid"
    kept = {"token": "***", "headers": {"Authorization": "***"}}
    await user.good("PATCH", f"/sources/{canary}", {"config": {**kept, "sings": True}})
    await user.good("POST", f"/sources/{canary}/test")
    assert (await user.synced(canary))["status"] == "failed"
    await user.good("PATCH", f"/sources/{canary}", {"config": kept})
    scripted = "scripted:tools=canary@canary.tell>canary@canary.fail>canary@canary.crash"
    for model in (scripted, "openai:gpt-4o-mini"):
        asked = {"content": "sing", "model": model}
        answer = await user.ask("POST", f"/chat/conversations/{conversation}/messages", asked)
        assert answer.status_code == 200
        assert b"canary" in answer.content or b"error" in answer.content
    for path in ("sources", "approvals", "audit", "jobs", f"chat/conversations/{conversation}"):
        await user.ask("GET", f"/{path}")
    async with httpx.AsyncClient(timeout=60) as stranger:
        for path in ("/metrics", "/health", "/api/v1/sources"):
            user.said.append((await stranger.get(machine.url + path)).content)
    status = await asyncio.to_thread(machine.agentcy, "status")
    said = await asyncio.to_thread(machine.agentcy, "config", "explain")
    user.said.append(orjson.dumps([status, said]))

    leaks = Leaks(CANARY, exact=_made(machine), control=CONTROL)
    for body in user.said:
        leaks.look("an answer", body)
    kept = [machine.state_dir / name for name in ("secrets.json", "embedded.json", "ray-token")]
    assert leaks.files(machine.state_dir, without=kept) > 100
    assert leaks.object_store(machine) > 0
    assert await leaks.postgres(settings) > 40
    assert await leaks.redis(settings) > 0
    servers = [psutil.Process(row["pid"]) for row in status["servers"]]
    need_none = [child for each in servers for child in each.children(recursive=True)]
    need_none += [*servers, *(psutil.Process(each.ppid()) for each in servers)]
    ingress = machine.processes("haproxy -")
    assert ingress
    leaks.processes(machine, need_none=[*need_none, *ingress])
    assert leaks.found == []
    seen = " ".join(leaks.seen)
    for place in ("an answer", str(machine.state_dir / "postgres"), "rows of tool_calls"):
        assert place in seen


def _made(machine: Machine) -> list[str]:
    """What this install has made for itself."""
    kept = orjson.loads((machine.state_dir / "secrets.json").read_bytes())
    return [*kept.values(), (machine.state_dir / "ray-token").read_text()]
