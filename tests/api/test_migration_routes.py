"""The move to the Advanced engine as the API and the command line show it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from secrets import token_hex

import pytest

from agentcy_ray.cli.engine import numbers, summary
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.embedded import ensure_embedded
from agentcy_ray.stores.endpoints import Endpoints
from tests.api.platform import Platform, open_platform, with_database
from tests.conftest import MakeDatabase

PATH = "/context/migrations"


@pytest.fixture(scope="module")
async def both(
    settings: Settings,
    endpoints: Endpoints,
    make_database: MakeDatabase,
    embedder: LocalEmbedder,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    """A platform with both engines; its organisations begin on Basic."""
    kyma = await ensure_embedded(settings, frozenset({"kyma"}), until_exit_of=os.getpid())
    own = replace(
        with_database(endpoints, await make_database()), kyma_url=kyma.kyma_url,
        kyma_flight_url=kyma.kyma_flight_url, kyma_token=kyma.kyma_token,
    )  # fmt: skip
    mine = f"moves_{token_hex(4)}"  # the engine is the session's; no other first organisation's
    folder = tmp_path_factory.mktemp("both")
    async with open_platform(own, folder, embedder, kyma_database=mine) as opened:
        yield opened


async def test_without_an_advanced_engine_the_answer_names_the_settings(platform: Platform) -> None:
    owner, member = await platform.as_("owner"), await platform.as_("member")
    refused = await owner.post(PATH)
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "capability_unsupported"
    assert "KYMA_BASE_URL" in refused.json()["error"]["details"]["set"]
    assert (await owner.get(PATH)).json() == {"items": [], "next_cursor": None}
    assert (await member.post(PATH)).status_code == 403


@pytest.mark.requirement("MIG-01")
async def test_an_owner_moves_the_organisation_and_cannot_come_back(both: Platform) -> None:
    owner = await both.as_("owner")
    path = both.roots / "towns.csv"
    path.write_text("id,name\n1,Bern\n2,Basel\n")
    config = {"file_path": str(path), "node_label": "Town", "id_column": "id"}
    source = await both.source(name="towns", connector="csv", config=config)
    assert (await both.sync(source["id"]))["status"] == "synced"
    assert (await owner.get("/context/capabilities")).json()["engine"] == "basic"

    started = await owner.post(PATH, headers={"idempotency-key": "go"})
    assert started.status_code == 202, started.text
    assert started.json()["migration"]["status"] == "planned"
    migration_id = started.json()["migration"]["id"]
    again = await owner.post(PATH, headers={"idempotency-key": "go"})
    assert again.json()["migration"]["id"] == migration_id
    state = started.json()
    for _ in range(20):
        state = (await owner.get(f"{PATH}/{migration_id}", params={"wait_secs": 5})).json()
        if state["migration"]["status"] == "done":
            break
    assert state["migration"]["status"] == "done", state
    assert state["migration"]["checksums"]["nodes"]["count"] == 2
    assert state["prune_after"] is not None
    assert summary(state["migration"]).startswith("2 nodes · ")
    assert numbers({"done": 5, "total": 10, "unit": "entities", "rate": 2, "eta_secs": 3}) == (
        "5/10 entities · 2/s · 3 s left"
    )

    assert (await owner.get("/context/capabilities")).json()["engine"] == "advanced"
    text = "MATCH (t:Town) RETURN t.name AS name ORDER BY name"
    answer = (await owner.post("/context/query", json={"query": text})).json()
    assert (answer["engine"], answer["rows"]) == ("advanced", [["Basel"], ["Bern"]])
    for ask in (
        owner.post(PATH),
        owner.post(PATH, json={"to": "basic"}),
        owner.post(f"{PATH}/{migration_id}/cancel"),
    ):
        refused = await ask
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "migration_one_way"
    assert len((await owner.get(PATH)).json()["items"]) == 1
    other = await both.as_("other")
    assert (await other.get(f"{PATH}/{migration_id}")).status_code == 404
    assert (await other.get("/context/capabilities")).json()["engine"] == "basic"
