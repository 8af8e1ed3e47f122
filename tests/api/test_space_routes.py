"""Embedding spaces and a change of the model, as the API and the command line show them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from agentcy_ray.cli.main import build
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import MeteredEmbedder
from agentcy_ray.retrieval.embedders import load_embedder
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.endpoints import Endpoints
from tests.api.platform import PASSWORD, Platform, open_platform, with_database
from tests.conftest import MakeDatabase

SPACES, SWAPS = "/rag/spaces", "/rag/swaps"
OTHER = "scripted:dim=256,seed=2"
TOWNS = ("Bern", "Basel", "Chur", "Davos", "Genf", "Lugano", "Sion", "Thun", "Zug", "Zurich")


class Loaded:
    """The bundled model, which the session has loaded, and whatever else is asked for."""

    def __init__(self, settings: Settings, bundled: LocalEmbedder) -> None:
        self._settings = settings
        self._known: dict[str, MeteredEmbedder] = {settings.embedding_model: bundled}

    async def of(self, reference: str) -> MeteredEmbedder:
        if reference not in self._known:
            self._known[reference] = await load_embedder(reference, self._settings)
        return self._known[reference]


@pytest.fixture(scope="module")
async def swapping(
    endpoints: Endpoints,
    make_database: MakeDatabase,
    embedder: LocalEmbedder,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    """A platform that can load a second model, with ten towns published."""
    folder = tmp_path_factory.mktemp("swaps")
    settings = Settings.load({}, agentcy_features_demo=True)
    models = Loaded(settings, embedder)
    own = with_database(endpoints, await make_database())
    async with open_platform(own, folder, embedder, models, agentcy_features_demo=True) as opened:
        path = opened.roots / "towns.csv"
        path.write_text("id,name\n" + "".join(f"{i},{town}\n" for i, town in enumerate(TOWNS)))
        config = {"file_path": str(path), "node_label": "Town", "id_column": "id"}
        source = await opened.source(name="towns", connector="csv", config=config)
        assert (await opened.sync(source["id"]))["status"] == "synced"
        yield opened


@pytest.fixture
def embed(swapping: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run ``agentcy embed`` as the owner; gives what it printed as JSON."""
    (tmp_path / "secrets.json").write_bytes(orjson.dumps({"admin_password": PASSWORD}))
    monkeypatch.setenv("AGENTCY_URL", swapping.url)
    monkeypatch.setenv("AGENTCY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ADMIN_EMAIL", "owner@acme.test")

    async def run(*words: str) -> Any:
        done = await asyncio.to_thread(CliRunner().invoke, build(), ["embed", *words, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        # The platform's workers log in this process, and may do so before the command prints.
        return json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{\n") :])[0]

    return run


async def ended(platform: Platform, swap_id: str) -> dict[str, Any]:
    owner = await platform.as_("owner")
    async with asyncio.timeout(60):
        while True:
            state = (await owner.get(f"{SWAPS}/{swap_id}", params={"wait_secs": 5})).json()
            if state["swap"]["status"] not in {"planned", "backfilling", "checking"}:
                return state


@pytest.mark.requirement("EMB-07")
async def test_an_owner_changes_the_model_and_goes_back(swapping: Platform) -> None:
    owner, member = await swapping.as_("owner"), await swapping.as_("member")
    assert (await member.get(SPACES)).status_code == 403
    (first,) = (await owner.get(SPACES)).json()["items"]
    assert first["space"]["status"] == "active"
    wanted = {"to": OTHER, "options": {"min_overlap": 0}}
    started = await owner.post(SWAPS, json=wanted, headers={"idempotency-key": "go"})
    assert started.status_code == 202, started.text
    swap_id = started.json()["swap"]["id"]
    again = await owner.post(SWAPS, json=wanted, headers={"idempotency-key": "go"})
    assert again.json()["swap"]["id"] == swap_id
    state = await ended(swapping, swap_id)
    assert state["swap"]["status"] == "cut_over", state
    assert state["swap"]["gate"]["recall"]["mean"] >= 0.95
    found = (await owner.post("/rag/hybrid", json={"query": "Chur"})).json()
    assert (found["space"], found["hits"][0]["name"]) == (state["swap"]["to_space"], "Chur")
    both = (await owner.post("/rag/search", json={"query": "Chur", "space": "both"})).json()
    assert both["beside"] == first["space"]["id"]

    busy = await owner.delete(f"{SPACES}/{state['swap']['to_space']}")
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "space_active")
    back = await owner.post(f"{SWAPS}/{swap_id}/rollback")
    assert back.status_code == 200, back.text
    assert back.json()["space"]["id"] == first["space"]["id"]
    twice = await owner.post(f"{SWAPS}/{swap_id}/rollback")
    assert (twice.status_code, twice.json()["error"]["code"]) == (409, "state_conflict")
    assert (await owner.get(f"{SWAPS}/{swap_id}")).json()["swap"]["status"] == "rolled_back"
    assert (await owner.delete(f"{SPACES}/{state['swap']['to_space']}")).status_code == 204
    (left,) = (await owner.get(SPACES)).json()["items"]
    assert left["space"]["status"] == "active"


async def test_the_command_line_swaps_checks_and_goes_back(swapping: Platform, embed: Any) -> None:
    model = "scripted:dim=128,seed=5"
    held = await embed(
        "swap", "--to", model, "--hold", "--min-overlap", "0", "--share", "0.9", "--rate", "100000"
    )
    assert (held["swap"]["status"], held["swap"]["reason"]) == ("ready", "it may be activated")
    checked = await embed("check", "--no-follow")
    await ended(swapping, checked["swap"]["id"])
    shown = await embed("status")
    assert shown["swap"]["swap"]["id"] == held["swap"]["id"]
    assert shown["spaces"][0]["space"]["embedder"] == model
    assert (await embed("activate"))["space"]["embedder"] == model
    assert (await embed("rollback"))["space"]["embedder"] == (swapping.settings.embedding_model)
    assert (await embed("drop", held["swap"]["to_space"]))["dropped"]


async def test_a_backfill_is_held_gone_on_with_and_ended_on_request(swapping: Platform) -> None:
    owner = await swapping.as_("owner")
    made = await owner.post(SPACES, json={"embedder": "scripted:dim=64,seed=9", "backfill": False})
    assert made.status_code == 202, made.text
    path = f"{SPACES}/{made.json()['space']['id']}"
    early = await owner.post(f"{path}/activate")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "state_conflict")
    assert (await owner.post(f"{path}/backfill/pause")).status_code == 404
    started = await owner.post(f"{path}/backfill", json={"options": {"share": 0.5}})
    assert started.status_code == 202, started.text
    async with asyncio.timeout(60):
        while True:
            state = (await owner.get(path, params={"wait_secs": 5})).json()
            if state["backfill"]["status"] == "done":
                break
    assert state["space"]["status"] == "ready"
    assert state["progress"]["done"] == len(TOWNS)
    assert (await owner.get(f"{path}/backfill/errors")).json()["items"] == []
    assert (await owner.post(f"{path}/backfill/cancel")).status_code == 409
    checked = await owner.post(f"{path}/check")
    assert checked.json()["space"]["recall"]["mean"] >= 0.95
    for place, body in ((SPACES, {"embedder": "nobody:model"}), (SWAPS, {"to": "nobody:model"})):
        unknown = await owner.post(place, json=body)
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (422, "validation_failed")


async def test_the_command_line_holds_what_fills_a_space_and_goes_on_within_other_bounds(
    swapping: Platform, embed: Any
) -> None:
    owner = await swapping.as_("owner")
    always, model = ("--quiet-hours", "00:00-00:00"), "scripted:dim=96,seed=7"
    begun = await embed("backfill", "--model", model, *always, "--no-follow")
    assert (await embed("pause"))["backfill"]["status"] == "paused"
    shown = (await embed("status"))["spaces"][0]
    assert (shown["space"]["id"], shown["progress"]["note"]) == (
        begun["space"]["id"], "paused by request",
    )  # fmt: skip
    later = datetime.now(UTC) + timedelta(hours=2)
    rests = f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M}"
    resumed = await embed("resume", "--quiet-hours", rests, "--rate", "100000")
    assert resumed["backfill"]["options"]["max_chunks_per_s"] == 100000
    path = f"{SPACES}/{begun['space']['id']}"
    async with asyncio.timeout(60):
        while (await owner.get(path, params={"wait_secs": 5})).json()["progress"]["done"] == 0:
            pass
    swap = await embed("swap", "--to", "scripted:dim=48,seed=8", *always, "--no-follow")
    assert (await embed("cancel"))["swap"]["status"] == "cancelled"
    state = await ended(swapping, swap["swap"]["id"])
    assert state["swap"]["status"] == "cancelled"


async def test_two_spaces_are_asked_when_the_organisation_wants_it(swapping: Platform) -> None:
    owner, member = await swapping.as_("owner"), await swapping.as_("member")
    path = "/settings/retrieval"
    assert (await member.post(path, json={"dual_space_search": True})).status_code == 403
    assert (await owner.get(path)).json() == {"dual_space_search": False}
    assert (await owner.post(path, json={"dual_space_search": True})).json()["dual_space_search"]
    found = (await owner.post("/rag/hybrid", json={"query": "Thun"})).json()
    assert found["beside"] is not None
    assert found["hits"][0]["name"] == "Thun"
    await owner.post(path, json={"dual_space_search": False})
