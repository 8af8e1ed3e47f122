"""What a sync does to engine, vectors, cursors and packages."""

from __future__ import annotations

import pytest

from agentcy_ray.ingest.prepare import FULL_EVERY
from tests.ingest.harness import House
from tests.ingest.memory_source import Graph, chain
from tests.ingest.watch import Watch

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


async def test_an_empty_source_syncs(house: House):
    run = await house.sync()
    assert (run.status, run.counts["nodes"]["added"]) == ("synced", 0)
    house.source.graph = chain(2)
    await house.sync()
    await house.assert_holds(house.source.graph)


async def test_a_run_starts_after_every_earlier_one_even_when_the_clock_went_back(house: House):
    house.source.graph = chain(3)
    first = await house.sync()
    async with house.db.system() as connection:
        await connection.execute(
            "UPDATE sync_runs SET started_at = started_at + interval '1 hour' WHERE id = $1",
            first.id,
        )
    ahead = await house.syncs.get(house.org_id, first.id)
    house.source.graph.nodes["Item", "i1"]["name"] = "renamed"
    second = await house.sync()
    assert ahead.started_at is not None
    assert second.started_at is not None
    assert second.started_at > ahead.started_at
