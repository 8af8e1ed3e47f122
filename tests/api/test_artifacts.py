"""Whole results of tools, and who may read them."""

from __future__ import annotations

import pytest

from agentcy_ray.agent.artifacts import Artifact
from tests.api.platform import Platform


async def keep(platform: Platform, kind: str, who: str) -> Artifact:
    return await platform.services.gates.artifacts.store(
        platform.org_id, "résult.json", b'{"whole": true}', media_type="application/json",
        kind=kind, created_by=platform.users[who],
    )  # fmt: skip


async def shown(platform: Platform, who: str) -> set[str]:
    items = (await (await platform.as_(who)).get("/artifacts")).json()["items"]
    return {item["id"] for item in items}


@pytest.mark.requirement("TOOL-06")
async def test_a_whole_result_is_read_by_whose_call_it_was_and_by_admins(
    platform: Platform,
) -> None:
    kept = (await keep(platform, "tool_result", "member")).model_dump(mode="json")["id"]
    for who, status in (("member", 200), ("admin", 200), ("colleague", 404), ("other", 404)):
        client = await platform.as_(who)
        assert (await client.get(f"/artifacts/{kept}")).status_code == status
        answer = await client.get(f"/artifacts/{kept}/content")
        assert answer.status_code == status
        assert (kept in await shown(platform, who)) == (status == 200)
        if status == 200:
            assert answer.json() == {"whole": True}
            assert answer.headers["content-disposition"].startswith("attachment;")


async def test_what_was_published_is_read_by_everybody_of_the_organisation(
    platform: Platform,
) -> None:
    kept = (await keep(platform, "published", "member")).model_dump(mode="json")["id"]
    assert kept in await shown(platform, "viewer")
    assert kept not in await shown(platform, "other")
