"""Every route, by its schema, as every kind of caller: no fault of ours, and what was promised.

The few operations that are not fuzzed have tests of their own: ``test_auth_routes.py`` (logout,
password), ``test_org_routes.py`` (deleting the organisation), ``test_streams.py`` (the audit log).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
import requests

from agentcy_ray.core.ids import encode
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.endpoints import Endpoints
from tests.api.fuzzing import OUT_OF_REACH, TIMEOUT_SECS, Drawn, Findings, draw, injections
from tests.api.platform import Platform, open_platform, with_database
from tests.api.test_other_org import Things
from tests.api.test_other_org import things as things  # one object of each kind
from tests.conftest import AttackScale, MakeDatabase

pytestmark = pytest.mark.attack

CALLERS = ("anonymous", "viewer", "member", "admin", "other")
EXAMPLES = {"short": 2, "long": 6}
"""Requests of each operation for each caller; ``make fuzz`` draws more."""


@pytest.fixture(scope="module")
async def platform(
    endpoints: Endpoints,
    make_database: MakeDatabase,
    embedder: LocalEmbedder,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    """One of its own, since fuzzing changes what it finds."""
    own = with_database(endpoints, await make_database())
    async with open_platform(own, tmp_path_factory.mktemp("fuzzed"), embedder) as opened:
        yield opened


@pytest.fixture(scope="module")
async def drawn(
    platform: Platform, attack_scale: AttackScale, pytestconfig: pytest.Config
) -> list[Drawn]:
    examples = pytestconfig.getoption("--fuzz-examples") or EXAMPLES[attack_scale]
    number = pytestconfig.getoption("--fuzz-seed")
    return await asyncio.to_thread(draw, platform.app.openapi(), examples, number)


async def fuzz(platform: Platform, things: Things, drawn: list[Drawn], who: str) -> Findings:
    findings = Findings()
    session = requests.Session()
    if who != "anonymous":
        await platform.as_(who)
        session.headers["authorization"] = platform.clients[who].headers["authorization"]
    if who == "anonymous":
        session.trust_env = False
    with ThreadPoolExecutor(1) as lane:
        for each in drawn:
            answer = await asyncio.get_running_loop().run_in_executor(
                lane, each.send, session, platform.url, things.ids
            )
            findings.look(each, answer)
            needs_login = each.case.operation.definition.raw.get("security") != []
            if who == "anonymous" and needs_login and answer.status_code < 400:
                findings.faults.append(f"{each.name} answered without a login")
            if who == "other":
                # The audit log tells its reader the ids that the reader has asked for.
                theirs = [encode("org", platform.org_id)]
                theirs += [] if "/policies/audit" in each.name else things.ids.values()
                shown = [
                    one for one in theirs if f'"{one}"' in answer.text or f",{one}," in answer.text
                ]
                if shown and answer.status_code < 400:
                    findings.faults.append(f"{each.name} showed {shown} to another organisation")
    return findings


@pytest.mark.requirement("API-10")
@pytest.mark.parametrize("who", CALLERS)
async def test_no_route_fails_or_answers_what_it_does_not_promise(
    platform: Platform, things: Things, drawn: list[Drawn], who: str
) -> None:
    findings = await fuzz(platform, things, drawn, who)
    assert findings.sent > 200
    assert not findings.faults, "\n".join(findings.faults)


CANARY = "canary-4b1d7e"
TABLES = "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND relname NOT LIKE 'vec_%'"


async def test_no_text_in_any_parameter_means_more_than_itself(
    platform: Platform, drawn: list[Drawn]
) -> None:
    """The canary lies in another organisation: in a title, a description, a graph and its texts."""
    other = await platform.as_("other")
    folder = platform.roots / "canary"
    folder.mkdir()
    (folder / "canary.md").write_text(f"# {CANARY}\n\nNobody else reads this.\n")
    await platform.conversation("other", title=CANARY)
    assert (await other.post("/realms", json={"name": "walled", "description": CANARY})).is_success
    config = {"root": str(folder)}
    source = (
        await other.post("/sources", json={"name": CANARY, "connector": "files", "config": config})
    ).json()
    await other.post(f"/sources/{source['id']}/sync", json={})
    tables, titles = await platform.sql(TABLES), await titles_of(other)
    assert CANARY in titles
    admin = await platform.as_("admin")
    session = requests.Session()
    session.headers["authorization"] = admin.headers["authorization"]
    faults: list[str] = []
    sent = 0
    with ThreadPoolExecutor(1) as lane:
        for one, how in injections(drawn):
            path = how.pop("path", one.case.formatted_path)
            how["headers"] = {"content-type": "application/json"}
            answer = await asyncio.get_running_loop().run_in_executor(
                lane,
                lambda path=path, one=one, how=how: session.request(
                    one.case.method, platform.url + path, timeout=TIMEOUT_SECS,
                    allow_redirects=False, **how,
                ),
            )  # fmt: skip
            sent += 1
            if answer.status_code >= 500 or CANARY in answer.text or "X-Injected" in answer.headers:
                faults.append(f"{one.name} {path} {how} → {answer.status_code} {answer.text[:200]}")
    assert sent > 200
    assert not faults, "\n".join(faults)
    assert await platform.sql(TABLES) == tables
    assert await titles_of(other) == titles


def test_what_is_left_out_is_there(platform: Platform) -> None:
    paths = platform.app.openapi()["paths"]
    for name in OUT_OF_REACH:
        method, path = name.split(" ")
        assert method.lower() in paths[path], name


async def titles_of(client: httpx.AsyncClient) -> list[str]:
    listed = await client.get("/chat/conversations", params={"limit": 200})
    return [one["title"] for one in listed.json()["items"]]
