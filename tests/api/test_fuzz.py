"""Every route, by its schema, as every kind of caller: no fault of ours, and what was promised.

The few operations that are not fuzzed have tests of their own: ``test_auth_routes.py`` (logout,
password), ``test_org_routes.py`` (deleting the organisation), ``test_streams.py`` (the audit log).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.endpoints import Endpoints
from tests.api.fuzzing import OUT_OF_REACH, Drawn, Findings, draw
from tests.api.platform import Platform, open_platform, with_database
from tests.api.test_other_org import Things
from tests.api.test_other_org import things as things  # one object of each kind
from tests.conftest import AttackScale, MakeDatabase

pytestmark = pytest.mark.attack

CALLERS = ("anonymous", "viewer", "member", "admin", "other")
EXAMPLES = {"short": 2, "long": 12}


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
                shown = [one for one in things.ids.values() if f'"{one}"' in answer.text]
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


def test_what_is_left_out_is_there(platform: Platform) -> None:
    paths = platform.app.openapi()["paths"]
    for name in OUT_OF_REACH:
        method, path = name.split(" ")
        assert method.lower() in paths[path], name
