"""The audit log over HTTP, and through the command line that reads it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from agentcy_ray.audit.filters import AuditFilter
from agentcy_ray.cli.main import build
from agentcy_ray.core.ids import encode, new_id
from tests.api.platform import Event, Platform, credentials, events

FOLLOWED_SECS = 20


async def newest_seq(platform: Platform) -> int:
    return await platform.services.gates.audit.head(platform.org_id)


@pytest.mark.requirement("AUD-02")
async def test_each_decision_on_a_route_has_exactly_one_entry(platform: Platform) -> None:
    owner, viewer = await platform.as_("owner"), await platform.as_("viewer")
    log = platform.services.gates.audit
    for who, method, path, body, wanted in (
        (owner, "POST", "/realms", {"name": "audited"}, [("realm.write", "allow")]),
        (viewer, "POST", "/realms", {"name": "never"}, [("realm.write", "deny")]),
        (owner, "GET", "/realms", None, []),
        (viewer, "GET", "/policies/audit", None, [("audit.read", "deny")]),
    ):
        before = await newest_seq(platform)
        request_id = f"req_{new_id().hex}"
        await who.request(method, path, json=body, headers={"x-request-id": request_id})
        found = [
            record
            async for page in log.pages(platform.org_id, after_seq=before)
            for record in page
            if record.context.get("request_id") == request_id
        ]
        assert [(record.action, record.decision) for record in found] == wanted


async def test_what_became_of_a_policy_is_in_the_log(platform: Platform) -> None:
    owner, before = await platform.as_("owner"), await newest_seq(platform)
    text = 'package agentcy.tests\nimport rego.v1\ndeny contains "no" if input.action == "%s"'
    body = {"name": "watched.rego", "rego": text % "never.one"}
    made = (await owner.post("/policies", json=body)).json()
    path = f"/policies/{made['id']}"
    assert (await owner.post("/policies", json={**body, "name": "x", "rego": "?"})).is_error
    await owner.put(path, json={"rego": text % "never.two"})
    await owner.put(path, json={"enabled": False})
    await owner.post(f"{path}/enable")
    assert (await owner.delete(path)).status_code == 204
    log = platform.services.gates.audit
    found = [
        (record.action, record.resource["version"], record.resource["enabled"])
        async for page in log.pages(
            platform.org_id, AuditFilter(category="admin"), after_seq=before
        )
        for record in page
        if record.resource.get("id") == made["id"]
    ]
    assert found == [
        ("policy.created", 1, True),
        ("policy.updated", 2, True),
        ("policy.disabled", 2, False),
        ("policy.enabled", 2, True),
        ("policy.deleted", 2, True),
    ]


async def test_a_stream_without_a_place_to_resume_at_begins_now(platform: Platform) -> None:
    owner = await platform.as_("owner")
    newest = await newest_seq(platform)
    follow = events(owner, "GET", "/policies/audit/stream", params={"action": "realm.write"})

    async def first() -> Event:
        async for event in follow:
            if event.type == "audit":
                return event
        raise AssertionError("the stream ended")

    waiting = asyncio.create_task(first())
    async with asyncio.timeout(FOLLOWED_SECS):
        for number in range(100):  # the first of them may be written before the stream is open
            await owner.post("/realms", json={"name": f"now-{number}"})
            done, _ = await asyncio.wait({waiting}, timeout=0.2)
            if done:
                break
        event = await waiting
    await follow.aclose()
    assert event.id is not None
    assert event.id > newest


async def test_a_log_is_exported_as_parquet_and_filtered_by_key(platform: Platform) -> None:
    owner = await platform.as_("owner")
    await owner.post("/realms", json={"name": "exported"})
    answer = await owner.get("/policies/audit.parquet", params={"action": "realm.write"})
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    rows = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert {row["action"] for row in rows} == {"realm.write"}
    key = {"api_key_id": encode("key", new_id())}
    assert (await owner.get("/policies/audit", params=key)).json()["items"] == []
    assert (await owner.get("/policies/audit", params={"api_key_id": "x"})).status_code == 404


@contextmanager
def settings_of(monkeypatch: pytest.MonkeyPatch, platform: Platform, state: Path) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("AGENTCY_URL", platform.url)
        patch.setenv("AGENTCY_STATE_DIR", str(state))
        yield


async def run(*words: str) -> Result:
    """One command, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, build(), list(words))


async def test_the_command_line_lists_exports_and_verifies(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    owner = await platform.as_("owner")
    await owner.post("/realms", json={"name": "commanded"})
    with settings_of(monkeypatch, platform, tmp_path):
        who = credentials("owner")
        assert (
            await run("login", "--email", who["email"], "--password", who["password"])
        ).exit_code == 0

        async def shown(*words: str) -> Any:
            answer = await run("audit", *words, "--json")
            assert answer.exit_code == 0, answer.output
            return orjson.loads(answer.stdout)

        listed = await shown("list", "--action", "realm.write", "--since", "1h", "-n", "1")
        assert [row["action"] for row in listed] == ["realm.write"]
        assert await shown("list", "--until", "2020-01-01") == []
        tail = await shown("tail", "-n", "3")
        assert [row["seq"] for row in tail] == sorted(row["seq"] for row in tail)
        for name in ("all.csv", "all.ndjson", "all.parquet"):
            said = await shown("export", str(tmp_path / name))
            assert said["bytes"] == (tmp_path / name).stat().st_size > 0
        assert (tmp_path / "all.csv").read_text().startswith("id,ts,org_id")
        lines = (tmp_path / "all.ndjson").read_bytes().splitlines()
        assert [orjson.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
        checked = await shown("verify")
        assert checked["ok"]
        assert checked["checked"] >= len(lines)
        assert (await shown("verify", "--from", "2", "--to", "4"))["checked"] == 3
        assert "the chain holds" in (await run("audit", "verify")).output
        assert (await run("audit", "list", "--since", "soon")).exit_code != 0


async def test_the_command_line_verifies_a_long_log_stretch_by_stretch(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("agentcy_ray.cli.audit.STRETCH", 2)
    with settings_of(monkeypatch, platform, tmp_path):
        who = credentials("owner")
        await run("login", "--email", who["email"], "--password", who["password"])
        before = await newest_seq(platform)
        answer = await run("audit", "verify", "--from", str(before - 4), "--json")
        assert orjson.loads(answer.stdout) == {"ok": True, "checked": 5, "first_bad_seq": None}
