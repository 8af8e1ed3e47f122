"""Syncs that fail: what stays untouched, and how the next one mends the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from agentcy_ray.connectors.base import Rejected
from agentcy_ray.context.engine import ContextEngine, Refused, Written
from agentcy_ray.core.errors import (
    ConnectorError,
    InvalidError,
    PackageCorruptError,
    PublishGuardError,
    SourceConfigError,
    StorageFullError,
    StoreUnavailableError,
)
from tests.ingest.harness import House
from tests.ingest.memory_source import Graph, chain

A = ("Item", "a")


class Picky:
    """An engine whose server takes every node but the first that it is given."""

    def __init__(self, engine: ContextEngine) -> None:
        self._engine = engine
        self._refused = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def upsert_nodes(self, org_id: UUID, batch: pa.RecordBatch, *args: Any, **more: Any):
        written = await self._engine.upsert_nodes(org_id, batch, *args, **more)
        if self._refused:
            return written
        self._refused = True
        return Written(
            rows=written.rows - 1, refused=(Refused(id=batch["id"][0].as_py(), reason="too wide"),)
        )


@pytest.mark.requirement("ING-02")
@pytest.mark.requirement("ING-06")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SourceConfigError("wrong password", kind="credentials"), "source_config_invalid"),
        (ConnectorError("it broke"), "connector_error"),
        (KeyError("a bug in a connector"), "connector_error"),
    ],
)
async def test_a_sync_that_fails_before_publish_changes_nothing(house: House, error, code):
    house.source.graph = chain(30)
    first = await house.sync()
    before = (await house.cursors(), await house.objects.list(), await house.nodes())
    old = house.source.graph.copy()
    house.source.graph.nodes["Item", "x"] = {"name": "x"}
    house.source.error = error
    with pytest.raises(type(error) if code != "connector_error" else ConnectorError):
        await house.sync()
    run = (await house.syncs.list(house.org_id, house.source_id))[0]
    assert (run.status, run.error["code"]) == ("failed", code)
    assert (await house.cursors(), await house.objects.list(), await house.nodes()) == before
    row = await house.row()
    assert (row["status"], row["current_package_id"]) == ("failed", first.package_id)
    assert row["last_error"]["code"] == code
    await house.assert_holds(old)
    house.source.error = None
    assert (await house.sync()).status == "synced"
    await house.assert_holds(house.source.graph)
    assert (await house.row())["last_error"] is None


async def test_bad_rows_are_rejected_one_by_one(house: House):
    house.source.graph = chain(100)
    house.source.graph.edges[A, "not upper", A] = {}
    house.source.rejected = [Rejected("line 7", "too few columns")]
    run = await house.sync()
    assert run.status == "synced"
    assert run.counts["rejected"] == 2
    assert {reject["where"] for reject in run.rejects} >= {"line 7"}
    assert any("UPPER_SNAKE" in reject["reason"] for reject in run.rejects)


@pytest.mark.requirement("KYMA-04")
async def test_what_the_engine_does_not_take_is_named_in_the_run(house: House):
    house.source.graph = chain(100)
    house.stores = replace(house.stores, engine=Picky(house.stores.engine))

    run = await house.sync()

    assert (run.status, run.counts["refused"], run.counts["rejected"]) == ("synced", 1, 0)
    [reject] = run.rejects
    assert reject["where"].startswith("n_")
    assert reject["reason"] == "too wide"


async def test_too_many_bad_rows_fail_the_run(house: House):
    house.source.graph = chain(10)
    house.source.rejected = [Rejected(f"line {n}", "bad") for n in range(150)]
    with pytest.raises(InvalidError, match="more than 5 %"):
        await house.sync()
    run = (await house.syncs.list(house.org_id))[0]
    assert run.status == "failed"
    assert await house.nodes() == {}


@pytest.mark.requirement("ING-09")
async def test_the_guard_stops_a_sync_that_would_hide_most_of_a_source(house: House):
    house.source.graph = chain(100)
    await house.sync()
    old = house.source.graph
    house.source.graph = chain(40)
    with pytest.raises(PublishGuardError) as caught:
        await house.sync(mode="full")
    assert (caught.value.details["archived"], caught.value.details["live"]) == (60, 100)
    await house.assert_holds(old)
    run = await house.sync(mode="full", force=True)
    assert run.counts["nodes"]["archived"] == 60
    await house.assert_holds(house.source.graph)


async def test_a_small_source_may_lose_everything(house: House):
    house.source.graph = chain(9)
    await house.sync()
    house.source.graph = Graph()
    assert (await house.sync(mode="full")).counts["nodes"]["archived"] == 9


async def test_a_passing_failure_is_gone_on_with_by_the_next_attempt(house: House):
    house.source.graph = chain(250)
    house.embedder.error = StoreUnavailableError("away")
    run = await house.request()
    with pytest.raises(StoreUnavailableError):
        await house.carry_out(run, last_attempt=False)
    assert (await house.syncs.get(house.org_id, run.id)).status == "publishing"
    house.embedder.error = None
    assert (await house.carry_out(run)).status == "synced"
    await house.assert_holds(house.source.graph)
    assert house.source.extracts == ["full"], "the source was not read again"


async def test_a_publish_that_failed_for_good_is_mended_by_the_next_sync(house: House):
    house.source.graph = chain(60)
    await house.sync()
    graph = house.source.graph
    graph.nodes[A] = {"name": "a"}
    graph.nodes["Item", "i5"]["name"] = "five"
    graph.edges[A, "NEXT", ("Item", "i5")] = {"step": 5}
    house.embedder.error = StoreUnavailableError("away")
    with pytest.raises(StoreUnavailableError):
        await house.sync()
    assert (await house.row())["status"] == "failed"
    house.embedder.error = None
    graph.drop(A)  # meanwhile the source went back
    graph.nodes["Item", "i5"]["name"] = "item 5"
    assert (await house.sync()).status == "synced"
    await house.assert_holds(graph)


@pytest.mark.parametrize("folder", ["objects", "work"])
async def test_a_full_disk_fails_the_run_and_leaves_the_last_state(
    house: House, folder: str, monkeypatch
):
    house.source.graph = chain(30)
    first = await house.sync()
    old = house.source.graph.copy()
    house.source.graph.nodes[A] = {"name": "a"}
    full = StorageFullError("no space is left")
    if folder == "objects":

        async def put_new(key: str, data: object) -> None:
            raise full

        monkeypatch.setattr(house.objects, "put_new", put_new)
    else:

        def no_space(*args: object, **how: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("agentcy_ray.ingest.segments.pq.ParquetWriter", no_space)
    with pytest.raises(StorageFullError):
        await house.sync(last_attempt=False)
    monkeypatch.undo()
    run = (await house.syncs.list(house.org_id))[0]
    assert (run.status, run.error["code"]) == ("failed", "storage_full")
    assert (await house.row())["current_package_id"] == first.package_id
    await house.assert_holds(old)
    assert (await house.sync()).status == "synced"
    await house.assert_holds(house.source.graph)


async def test_a_damaged_package_stops_the_sync(house: House):
    house.source.graph = chain(10)
    await house.sync()
    key = next(key for key in await house.objects.list() if "/nodes/" in key)
    path = house.objects.local_path(key)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    house.source.graph.nodes[A] = {"name": "a"}
    with pytest.raises(PackageCorruptError, match="differs from its manifest"):
        await house.sync()
    path.unlink()
    with pytest.raises(PackageCorruptError, match="is missing"):
        await house.sync()
