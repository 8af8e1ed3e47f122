"""Ingest tokens: many to a pipeline, each ended by itself."""

from __future__ import annotations

import asyncio

import pytest

from agentcy_ray.ingest.continuous.tokens import MAX_TOKENS
from tests.api.platform import Platform


async def test_a_pipeline_has_fifty_tokens_at_most_and_each_is_revoked_by_itself(
    platform: Platform,
) -> None:
    owner = await platform.as_("owner")
    new = {"name": "tokens", "kind": "webhook", "realm": "data"}
    pipeline = (await owner.post("/context/pipelines", json=new)).json()
    path = f"/context/pipelines/{pipeline['id']}/tokens"
    async with asyncio.timeout(60):
        made = await asyncio.gather(*(owner.post(path, json={}) for _ in range(MAX_TOKENS + 3)))
    good = [answer.json() for answer in made if answer.status_code == 201]
    refused = [answer.json()["error"]["code"] for answer in made if answer.status_code != 201]
    assert (len(good), refused) == (MAX_TOKENS, ["quota_exceeded"] * 3)

    first, second, *_ = good
    assert (await owner.delete(f"{path}/{first['id']}")).status_code == 204
    record = {"event_id": "1", "label": "Ping"}
    for token in (first, second):
        posted = await platform.client().post(f"/ingest/{token['token']}", json=record)
        assert (posted.status_code == 401) is (token is first), posted.text
    assert (await owner.post(path, json={})).status_code == 201  # there is room again


@pytest.mark.requirement("API-05")
async def test_a_repeated_request_makes_no_second_token_and_keeps_no_text(
    platform: Platform,
) -> None:
    owner = await platform.as_("owner")
    new = {"name": "one-token", "kind": "webhook", "realm": "data"}
    pipeline = (await owner.post("/context/pipelines", json=new)).json()
    path, key = f"/context/pipelines/{pipeline['id']}/tokens", {"idempotency-key": "one-token"}
    body = {"with_secret": True}
    made = (await owner.post(path, json=body, headers=key)).json()
    assert made["url"].endswith(made["token"])
    again = await owner.post(path, json=body, headers=key)
    assert (again.status_code, again.headers["idempotent-replay"]) == (201, "true")
    assert again.json() == {"id": made["id"], "token": None, "secret": None, "url": None}
    assert len((await owner.get(path)).json()["items"]) == 1
    for text in (made["token"], made["secret"]):
        kept = "SELECT 1 FROM idempotency_keys t WHERE strpos(t::text, $1) > 0"
        assert not await platform.sql(kept, text.partition("_")[2])
