"""What a sync does to engine, vectors, cursors and packages."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from agentcy_ray.connectors.base import Rejected
from agentcy_ray.core.errors import (
    CancelledByRequestError,
    ConflictError,
    ConnectorError,
    InvalidError,
    LeaseLostError,
    PackageCorruptError,
    PublishGuardError,
    SourceConfigError,
    StorageFullError,
    StoreUnavailableError,
)
from agentcy_ray.ingest.fence import Lease
from agentcy_ray.ingest.prepare import FULL_EVERY
from agentcy_ray.jobs.worker import Beat
from tests.ingest.harness import House
from tests.ingest.memory_source import Graph, chain

A, B, C = ("Item", "a"), ("Item", "b"), ("Item", "c")


async def test_a_first_sync_brings_nodes_edges_and_texts(house: House):
    house.source.graph = chain(250)
    house.source.graph.documents["Item", "i7"] = "A body about walruses."
    run = await house.sync()
    assert (run.status, run.error, run.mode) == ("synced", None, "full")
    assert run.counts["nodes"] == {"added": 250, "updated": 0, "unchanged": 0, "archived": 0}
    assert run.counts["edges"]["added"] == 249
    assert run.counts["documents"]["added"] == 1
    assert run.counts["chunks"] == run.counts["embedded"] == 251
    assert run.counts["bytes"] > 0
    assert run.counts["seconds"].keys() >= {"extract", "package", "diff", "publish", "embed"}
    await house.assert_holds(house.source.graph)
    row = await house.row()
    assert (row["status"], row["current_package_id"]) == ("synced", run.package_id)
    assert await house.cursors() == {"graph": {"at": 0}}
    assert house.files() == []


@pytest.mark.requirement("ING-04")
@pytest.mark.requirement("EMB-05")
@pytest.mark.parametrize("mode", ["full", "incremental"])
async def test_syncing_an_unchanged_source_again_writes_nothing(house: House, mode: str):
    house.source.graph = chain(120)
    first = await house.sync()
    objects, texts = await house.objects.list(), len(house.embedder.texts)
    seen = Watch(house)
    again = await house.sync(mode=mode)
    assert again.status == "synced"
    assert again.counts["nodes"] == {"added": 0, "updated": 0, "unchanged": 120, "archived": 0}
    assert again.counts["edges"]["unchanged"] == 119
    assert (again.counts["chunks"], again.counts["embedded"]) == (0, 0)
    assert seen.calls == []
    assert len(house.embedder.texts) == texts
    assert await house.objects.list() == objects
    assert (await house.row())["current_package_id"] == first.package_id
    assert len(await house.syncs.packages(house.org_id, house.source_id)) == 1


async def test_an_empty_incremental_extract_reads_no_package(house: House, monkeypatch):
    house.source.graph = chain(20)
    await house.sync()

    async def no_reading(*args, **how):
        raise AssertionError("a package was read")

    monkeypatch.setattr("agentcy_ray.ingest.prepare.load_state", no_reading)
    run = await house.sync()
    assert run.status == "synced"
    assert house.source.extracts == ["full", "incremental"]


async def test_only_the_difference_is_written(house: House):
    house.source.graph = chain(300)
    await house.sync()
    graph = house.source.graph
    graph.nodes["Item", "i5"]["name"] = "renamed"
    graph.nodes["Item", "new"] = {"name": "new"}
    graph.edges[("Item", "i5"), "NEXT", ("Item", "new")] = {"step": 1}
    graph.drop(("Item", "i299"))
    seen = Watch(house)
    run = await house.sync(mode="full")
    assert run.counts["nodes"] == {"added": 1, "updated": 1, "unchanged": 298, "archived": 1}
    assert run.counts["edges"] == {"added": 1, "updated": 0, "unchanged": 298, "archived": 1}
    assert seen.rows == 5
    assert run.counts["embedded"] == 2
    await house.assert_holds(graph)


async def test_a_property_that_is_not_embedded_costs_no_vector(house: House):
    house.source.graph = chain(10)
    await house.sync()
    house.source.graph.nodes["Item", "i3"]["n"] = 99
    run = await house.sync()
    assert run.counts["nodes"]["updated"] == 1
    assert run.counts["embedded"] == 0
    assert (await house.nodes())["Item", "i3"]["n"] == 99
    assert (await house.hits())["Item", "i3"] == {"name": "item 3", "n": 99}


@pytest.mark.requirement("ING-05")
async def test_a_full_sync_archives_what_the_source_has_no_more(house: House):
    house.source.graph = chain(40)
    await house.sync()
    for n in range(10):
        house.source.graph.drop(("Item", f"i{n}"))
    run = await house.sync(mode="full")
    assert run.counts["nodes"]["archived"] == 10
    assert run.counts["edges"]["archived"] == 10
    await house.assert_holds(house.source.graph)


async def test_an_incremental_sync_archives_only_what_the_source_names(house: House):
    house.source.graph = chain(40)
    await house.sync()
    house.source.graph.drop(("Item", "i39"))
    run = await house.sync()
    assert (run.mode, run.counts["nodes"]["archived"]) == ("incremental", 1)
    assert run.counts["nodes"]["unchanged"] == 39
    await house.assert_holds(house.source.graph)


async def test_what_comes_back_is_live_again(house: House):
    graph = chain(5)
    house.source.graph = graph.copy()
    await house.sync()
    house.source.graph.drop(("Item", "i2"))
    await house.sync()
    house.source.graph = graph.copy()
    embedded = len(house.embedder.texts)
    await house.sync()
    await house.assert_holds(graph)
    assert len(house.embedder.texts) == embedded, "its vectors were still there"


@pytest.mark.requirement("CTX-17")
async def test_an_edge_waits_for_its_end_and_hides_when_the_end_leaves(house: House):
    graph = Graph(nodes={A: {"name": "a"}, C: {"name": "c"}})
    graph.edges = {(A, "KNOWS", B): {"step": 1}, (B, "KNOWS", C): {"step": 2}}
    house.source.graph = graph
    run = await house.sync()
    assert run.counts["dangling"] == 2
    assert await house.edges() == {}
    graph.nodes[B] = {"name": "b"}
    run = await house.sync()
    assert run.counts["dangling"] == 0
    assert await house.edges() == graph.edges
    del graph.nodes[B]  # the edges stay in the source
    run = await house.sync(mode="full")
    assert run.counts["dangling"] == 2
    assert await house.edges() == {}
    graph.nodes[B] = {"name": "b"}
    await house.sync(mode="full")
    await house.assert_holds(graph)


async def test_of_rows_with_one_key_the_last_wins_and_the_others_are_counted(house: House):
    house.source.graph = chain(3)
    twice = house.source._batches

    def batches(before, now, full):
        changed = now.copy()
        changed.nodes["Item", "i1"] = {"name": "later"}
        return [*twice(before, now, full), *twice(now, changed, full)]

    house.source._batches = batches
    run = await house.sync()
    assert run.counts["duplicates"] == 1
    assert (await house.nodes())["Item", "i1"] == {"name": "later"}


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
    house.source.graph.edges[A, "not upper", B] = {}
    house.source.rejected = [Rejected("line 7", "too few columns")]
    run = await house.sync()
    assert run.status == "synced"
    assert run.counts["rejected"] == 2
    assert {reject["where"] for reject in run.rejects} >= {"line 7"}
    assert any("UPPER_SNAKE" in reject["reason"] for reject in run.rejects)


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


@pytest.mark.requirement("ING-03")
async def test_a_second_request_is_refused_while_a_sync_is_open(house: House):
    run = await house.request()
    with pytest.raises(ConflictError) as caught:
        await house.request()
    assert caught.value.code == "sync_in_progress"
    await house.carry_out(run)
    assert (await house.sync()).status == "synced"


@pytest.mark.requirement("ING-03")
@pytest.mark.parametrize("stage", ["extracted", "uploaded", "nodes_batch", "vectors_batch",
                                   "edges_done", "before_commit"])  # fmt: skip
async def test_an_owner_that_was_displaced_writes_nothing_more(
    house: House, stage: str, monkeypatch
):
    house.source.graph = chain(250)
    run = await house.request()
    displaced: list[asyncio.Future[None]] = []
    hold = Lease.hold

    async def displace() -> None:
        async with house.db.system() as connection:
            await connection.execute(
                "UPDATE source_leases SET epoch = epoch + 1 WHERE source_id = $1", house.source_id
            )

    @asynccontextmanager
    async def hold_after(lease, **how):
        if displaced:
            await displaced[0]
        async with hold(lease, **how) as connection:
            if displaced and displaced[0].done():
                raise AssertionError("the former owner may write")
            yield connection

    def probe(name: str) -> None:
        if name == stage and not displaced:
            displaced.append(asyncio.ensure_future(displace()))

    monkeypatch.setattr(Lease, "hold", hold_after)
    with pytest.raises(LeaseLostError):
        await house.carry_out(run, probe=probe)
    monkeypatch.undo()
    left = await house.syncs.get(house.org_id, run.id)
    assert left.status in {"running", "publishing"}, "its new owner decides"
    assert (await house.row())["current_package_id"] is None
    assert (await house.carry_out(run)).status == "synced"
    await house.assert_holds(house.source.graph)


async def test_a_live_owner_keeps_its_source(house: House):
    run = await house.request()
    house.source.graph = chain(5)
    refused: list[str] = []

    async def second() -> None:
        try:
            await house.runner().run(house.org_id, run.id, "other", Beat(0))
        except ConflictError as error:
            refused.append(error.code)

    tasks: list[asyncio.Future[None]] = []
    house.source.on_item = lambda: tasks.append(asyncio.ensure_future(second()))
    await house.carry_out(run)
    await asyncio.gather(*tasks)
    assert set(refused) == {"sync_in_progress"}


async def test_a_cancel_stops_the_extract_and_leaves_everything(house: House):
    house.source.graph = chain(30)
    await house.sync()
    old = house.source.graph.copy()
    house.source.graph.nodes[A] = {"name": "a"}
    run = await house.request()
    beat = Beat(99)
    house.source.on_item = lambda: setattr(beat, "cancelled", True)
    with pytest.raises(CancelledByRequestError):
        await house.carry_out(run, beat=beat)
    assert (await house.syncs.get(house.org_id, run.id)).status == "cancelled"
    await house.assert_holds(old)


async def test_a_waiting_sync_can_be_cancelled_and_another_asked_for(house: House):
    run = await house.request()
    assert (await house.syncs.cancel(house.org_id, run.id)).status == "cancelled"
    with pytest.raises(ConflictError):
        await house.syncs.cancel(house.org_id, run.id)
    assert (await house.sync()).status == "synced"


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


@pytest.mark.requirement("ING-08")
async def test_revert_brings_back_graph_vectors_and_cursors(house: House):
    house.source.graph = chain(50)
    house.source.graph.documents["Item", "i3"] = "The first body."
    first = await house.sync()
    old, cursors = house.source.graph.copy(), await house.cursors()
    graph = house.source.graph
    graph.documents["Item", "i3"] = "The second body."
    graph.nodes["Item", "i4"]["name"] = "four"
    graph.nodes[A] = {"name": "a"}
    graph.drop(("Item", "i49"))
    await house.sync()
    await house.assert_holds(graph)
    run = await house.revert(first.package_id)
    assert (run.kind, run.status) == ("revert", "synced")
    await house.assert_holds(old)
    assert await house.cursors() == cursors
    assert (await house.row())["current_package_id"] == first.package_id
    after = await house.sync()  # the source still has what it has
    assert after.mode == "incremental"
    await house.assert_holds(graph)


@pytest.mark.parametrize("reported", [False, True])
async def test_every_so_many_syncs_one_is_full_unless_deletions_are_reported(
    house: House, monkeypatch, reported: bool
):
    assert FULL_EVERY == 24
    monkeypatch.setattr("agentcy_ray.ingest.prepare.FULL_EVERY", 3)
    house.source.reports_deletions = reported
    for n in range(5):
        house.source.graph.nodes["Item", f"i{n}"] = {"name": f"i{n}"}
        await house.sync()
    last = ["incremental"] * 2 if reported else ["full", "incremental"]
    assert house.source.extracts == ["full", "incremental", "incremental", *last]


async def test_a_long_chain_of_deltas_is_folded(make_house):
    house = await make_house(package_delta_max=3)
    for n in range(9):
        house.source.graph.nodes["Item", f"i{n}"] = {"name": f"i{n}"}
        if n > 3:
            house.source.graph.drop(("Item", f"i{n - 4}"))
        await house.sync()
    packages = await house.syncs.packages(house.org_id, house.source_id)
    assert [package.state for package in reversed(packages)] == [
        "full", "delta", "delta", "delta", "full", "delta", "delta", "delta", "full",
    ]  # fmt: skip
    assert packages[0].current
    assert house.source.extracts == ["full", *["incremental"] * 8]
    await house.assert_holds(house.source.graph)


async def test_old_packages_are_deleted_with_their_objects(make_house):
    house = await make_house(package_keep=2)
    for n in range(5):
        house.source.graph.nodes["Item", f"i{n}"] = {"name": f"i{n}"}
        await house.sync(mode="full")
    packages = await house.syncs.packages(house.org_id, house.source_id)
    assert len(packages) == 3, "two kept, and the one that this sync made"
    prefixes = {key.split("/")[3] for key in await house.objects.list("packages")}
    assert prefixes == {package.id.hex for package in packages}


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


async def test_an_empty_source_syncs(house: House):
    run = await house.sync()
    assert (run.status, run.counts["nodes"]["added"]) == ("synced", 0)
    house.source.graph = chain(2)
    await house.sync()
    await house.assert_holds(house.source.graph)


INDEX_WRITES = ("upsert", "refresh", "refresh_nodes", "replace_node_chunks", "archive_nodes")


class Watch:
    """Counts what is written into engine and vectors from now on."""

    def __init__(self, house: House) -> None:
        self.calls: list[str] = []
        self.rows = 0
        for target, names in (
            (house.engine, ("upsert_nodes", "upsert_edges", "archive")),
            (house.stores.index, INDEX_WRITES),
        ):
            for name in names:
                self._wrap(target, name)

    def _wrap(self, target: object, name: str) -> None:
        real = getattr(target, name)
        if hasattr(real, "__wrapped__"):
            real = real.__wrapped__

        async def watched(*args, **how):
            self.calls.append(name)
            if name.startswith("upsert_"):
                self.rows += args[1].num_rows
            elif name == "archive":
                self.rows += len(args[2])
            return await real(*args, **how)

        watched.__wrapped__ = real
        setattr(target, name, watched)
