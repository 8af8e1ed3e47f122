"""A backfill fills a space while its organisation goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, time
from uuid import UUID

import pytest

from agentcy_ray.core.errors import (
    CancelledByRequestError,
    ConfigError,
    ConflictError,
    EmbedderRefusedError,
    EmbedderUnavailableError,
    StoreUnavailableError,
)
from agentcy_ray.ingest.backfill.finish import IndexFinisher
from agentcy_ray.ingest.backfill.quiet import QuietHours
from agentcy_ray.ingest.backfill.records import BackfillOptions
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.records import Progress
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from tests.ingest.backfill.conftest import MakeFilling


async def test_every_chunk_of_every_package_is_embedded_once_and_the_space_is_ready(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    graph = filling.house.source.graph
    for n in range(20):
        graph.documents["Item", f"i{n}"] = f"# item {n}\n\n" + f"a text about {n}. " * 200
    await filling.house.sync()  # a delta upon the first package
    house = filling.house
    finisher = IndexFinisher(house.db, house.stores.spaces, house.settings)
    ended = await filling.attempt(await filling.start(), finisher=finisher)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    assert ended.blocks == ended.blocks_done > 5
    assert ended.nodes == ended.nodes_done == 100
    assert ended.chunks == (await filling.held()).total() == len(filling.model.texts) > 120
    assert ended.tokens > 0
    assert ended.errors == 0
    assert ended.recall is not None
    assert ended.recall["mean"] >= 0.95
    space = await filling.house.stores.spaces.get(filling.house.org_id, filling.space.id)
    assert space.indexed_at is not None


async def test_an_organisation_without_packages_has_its_space_ready_at_once(
    make_filling: MakeFilling,
):
    filling = await make_filling(0)
    ended = await filling.attempt(await filling.start())
    assert (ended.status, await filling.status()) == ("done", "ready")
    assert ended.progress()["total"] == 0


async def test_a_space_has_one_backfill_at_a_time_and_only_while_it_is_built(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    first = await filling.start()
    assert (await filling.start()).id == first.id
    await filling.attempt(first)
    with pytest.raises(ConflictError):
        await filling.start()


async def test_what_is_published_between_reading_and_writing_a_block_is_what_stays(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    house, graph = filling.house, filling.house.source.graph
    synced: list[str] = []

    async def publish(texts: Sequence[str]) -> None:
        if synced:  # the sync itself
            return
        synced.append("once")
        for n in range(10, 30):
            graph.drop(("Item", f"i{n}"))
        for n in range(40, 60):
            graph.nodes["Item", f"i{n}"]["name"] = f"another {n}"
        for n in range(60, 70):
            graph.nodes["Item", f"i{n}"]["n"] = n + 1000  # not what decides on a new vector
        for n in range(100, 110):
            graph.nodes["Item", f"i{n}"] = {"name": f"item {n}", "n": n}
        await house.sync()

    filling.model.hook = publish
    ended = await filling.attempt(await filling.start(lanes=1))
    assert (synced, ended.status) == (["once"], "done")
    await filling.assert_complete()


async def test_publishes_before_the_plan_are_not_doubled_by_it(make_filling: MakeFilling):
    filling = await make_filling()
    house, graph = filling.house, filling.house.source.graph

    class Busy(SpaceStore):
        async def begin(self, org_id: UUID, space_id: UUID) -> Space:
            space = await super().begin(org_id, space_id)
            graph.nodes["Item", "i5"]["name"] = "another"
            await house.sync()
            graph.nodes["Item", "i5"]["n"] = 1005  # in its text, yet no reason for a new vector
            await house.sync()
            return space

    spaces = Busy(house.db, house.settings)
    ended = await filling.attempt(await filling.start(), spaces=spaces)
    assert ended.status == "done"
    await filling.assert_complete()


async def test_a_publish_that_is_under_way_holds_up_only_what_it_changes(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    house, graph = filling.house, filling.house.source.graph
    runs, begun = [], []

    async def break_off(texts: Sequence[str]) -> None:
        """A sync gets as far as half of its vectors, and its worker dies."""
        if begun:  # the other lane, or the sync itself
            return
        begun.append(True)
        for n in range(10, 50):
            graph.nodes["Item", f"i{n}"]["name"] = f"another {n}"
        graph.drop(("Item", "i60"))
        runs.append(await house.request(mode="full"))

        def probe(name: str) -> None:
            if name == "vectors_batch":
                raise StoreUnavailableError("the worker is gone")

        with pytest.raises(StoreUnavailableError):
            await house.carry_out(runs[0], last_attempt=False, probe=probe)

    waiting = asyncio.Event()

    class Watched(Beat):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.note.startswith("waiting for syncs"):
                waiting.set()

    filling.model.hook = break_off
    backfill = await filling.start()
    async with asyncio.timeout(60):
        attempt = asyncio.create_task(filling.attempt(backfill, beat=Watched(1)))
        await waiting.wait()
        assert (await filling.get(backfill)).blocks_done < (await filling.get(backfill)).blocks
        ended = await house.carry_out(runs[0])
        assert ended.status == "synced"
        assert (await attempt).status == "done"
    await filling.assert_complete()


async def test_a_publish_that_takes_long_leaves_the_worker_to_others(make_filling: MakeFilling):
    filling = await make_filling()
    house, graph = filling.house, filling.house.source.graph
    for n in range(10, 50):
        graph.nodes["Item", f"i{n}"]["name"] = f"another {n}"
    run = await house.request(mode="full")

    def probe(name: str) -> None:
        if name == "vectors_batch":
            raise StoreUnavailableError("the worker is gone")

    with pytest.raises(StoreUnavailableError):
        await house.carry_out(run, last_attempt=False, probe=probe)
    backfill, beat = await filling.start(), Beat(1)
    waiting = await filling.attempt(backfill, beat=beat, patience=1)
    assert (waiting.status, beat.again_in is not None) == ("running", True)
    assert waiting.note.startswith("waiting for 1 syncs")
    assert (await house.carry_out(run)).status == "synced"
    beat.again_in = None
    ended = await filling.attempt(waiting, beat=beat, patience=1)
    assert (ended.status, beat.again_in) == ("done", None)
    await filling.assert_complete()


async def test_a_source_that_is_deleted_meanwhile_leaves_nothing_behind(
    make_filling: MakeFilling,
):
    filling = await make_filling()

    async def delete(texts: Sequence[str]) -> None:
        async with filling.house.db.system() as connection:
            await connection.execute("DELETE FROM sources WHERE id = $1", filling.house.source_id)

    filling.model.hook = delete
    ended = await filling.attempt(await filling.start())
    assert ended.status == "done"
    assert not await filling.held()


async def test_a_model_that_is_away_costs_an_attempt_and_no_block(make_filling: MakeFilling):
    filling = await make_filling()
    backfill = await filling.start(lanes=1)

    async def away(texts: Sequence[str]) -> None:
        if len(filling.model.texts) > 50:
            raise EmbedderUnavailableError("restarting")

    filling.model.hook = away
    with pytest.raises(EmbedderUnavailableError):
        await filling.attempt(backfill, last=False)
    left = await filling.get(backfill)
    assert (left.status, left.note) == ("running", "tried again soon: restarting")
    assert 0 < left.blocks_done < left.blocks
    before, filling.model.hook = left.chunks, None
    filling.model.texts.clear()
    ended = await filling.attempt(backfill)
    assert ended.status == "done"
    assert len(filling.model.texts) == 100 - before, "what was written is not embedded again"
    await filling.assert_complete()


async def test_texts_that_are_refused_are_named_and_tried_again_apart(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    graph = filling.house.source.graph
    for n in (3, 50):
        graph.nodes["Item", f"i{n}"]["name"] = f"poison {n}"
    await filling.house.sync()
    filling.model.refused = "poison"
    backfill = await filling.start()
    ended = await filling.attempt(backfill)
    assert (ended.status, ended.errors) == ("done", 2)
    errors = await filling.store.errors(filling.house.org_id, backfill.id)
    assert {error.code for error in errors} == {"embedder_refused"}
    assert {error.attempts for error in errors} == {2}, "once in its block, once apart"
    lost = await filling.wanted() - await filling.held()
    assert sorted(text.split(" | ")[1] for _, text in lost) == ["poison 3", "poison 50"]


async def test_many_texts_that_are_refused_for_good_do_not_fail_the_rest(
    make_filling: MakeFilling,
):
    filling = await make_filling(120)
    for n in range(20, 100):
        filling.house.source.graph.nodes["Item", f"i{n}"]["name"] = f"poison {n}"
    await filling.house.sync()
    filling.model.refused = "poison"
    ended = await filling.attempt(await filling.start(block_chunks=1000))
    assert (ended.status, ended.errors, await filling.status()) == ("done", 80, "ready")
    assert (await filling.held()).total() == 40


async def test_a_model_that_refuses_everything_fails_the_backfill(make_filling: MakeFilling):
    filling = await make_filling(80)
    filling.model.refused = " "
    backfill = await filling.start(block_chunks=1000)
    with pytest.raises(EmbedderRefusedError):
        await filling.attempt(backfill)
    assert (await filling.get(backfill)).status == "failed"
    assert not await filling.store.errors(filling.house.org_id, backfill.id)


async def test_a_text_that_is_taken_the_second_time_is_no_error_any_more(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    filling.house.source.graph.nodes["Item", "i7"]["name"] = "poison"
    await filling.house.sync()
    filling.model.refused = "poison"

    def cure(name: str) -> None:
        if name == "filled":
            filling.model.refused = ""

    ended = await filling.attempt(await filling.start(), probe=cure)
    assert (ended.status, ended.errors) == ("done", 0)
    await filling.assert_complete()


async def test_a_pause_stops_the_worker_and_resume_goes_on_where_it_was(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    org, backfill = filling.house.org_id, await filling.start(lanes=1)
    held = asyncio.Event()

    async def hold(texts: Sequence[str]) -> None:
        if len(filling.model.texts) > 40:
            held.set()
            await asyncio.Event().wait()

    filling.model.hook = hold
    async with asyncio.timeout(60):
        attempt = asyncio.create_task(filling.attempt(backfill))
        await held.wait()
        assert (await filling.store.pause(org, backfill.id)).status == "paused"
        with pytest.raises(CancelledByRequestError):
            await attempt
    filling.model.hook = None
    done = (await filling.get(backfill)).blocks_done
    assert done > 0
    queued = await filling.store.resume(org, backfill.id)
    assert (queued.status, queued.blocks_done) == ("queued", done)
    assert (await filling.attempt(queued)).status == "done"
    await filling.assert_complete()


async def test_a_pause_that_was_taken_back_is_not_made_good_by_the_former_job(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    org, backfill = filling.house.org_id, await filling.start(lanes=1)
    held = asyncio.Event()

    async def hold(texts: Sequence[str]) -> None:
        held.set()
        await asyncio.Event().wait()

    filling.model.hook = hold
    beat = Beat(1)
    async with asyncio.timeout(30):
        attempt = asyncio.create_task(filling.attempt(backfill, beat=beat))
        await held.wait()
        await filling.store.pause(org, backfill.id)
        queued = await filling.store.resume(org, backfill.id)
        beat.cancelled = True  # as its worker hears of the pause
        with pytest.raises(CancelledByRequestError):
            await attempt
    assert (await filling.get(backfill)).status == "queued"
    filling.model.hook = None
    await filling.attempt(backfill)  # the former job once more, after a lapsed lease
    assert (await filling.get(backfill)).status == "queued"
    assert (await filling.attempt(queued)).status == "done"
    await filling.assert_complete()


async def test_the_cancelled_job_of_a_backfill_that_has_not_begun_holds_the_backfill(
    make_filling: MakeFilling,
):
    filling = await make_filling(20)
    org, backfill = filling.house.org_id, await filling.start()
    queue = PostgresQueue(filling.house.settings, filling.house.db)
    assert (await queue.cancel(org, backfill.job_id)).open, "its handler hears of it first"
    beat = Beat(1)
    beat.cancelled = True
    with pytest.raises(CancelledByRequestError):
        await filling.attempt(backfill, beat=beat)
    held = await filling.get(backfill)
    assert (held.status, held.note) == ("paused", "its job was cancelled")
    assert (await filling.attempt(await filling.store.resume(org, backfill.id))).status == "done"


async def test_what_cannot_be_done_to_a_backfill_says_to_which_it_can(make_filling: MakeFilling):
    filling = await make_filling(20)
    org, backfill = filling.house.org_id, await filling.start()
    with pytest.raises(ConflictError, match=r"is queued and .* only one that is failed or paused"):
        await filling.store.resume(org, backfill.id)
    await filling.store.pause(org, backfill.id)
    with pytest.raises(ConflictError, match=r"is paused and .* only one that is queued or running"):
        await filling.store.pause(org, backfill.id)


async def test_one_that_failed_is_gone_on_with_in_the_way_that_is_asked_for_now(
    make_filling: MakeFilling,
):
    filling = await make_filling()
    quiet = [QuietHours(start=time(9), end=time(17))]
    backfill = await filling.start(lanes=1, share=0.5)

    async def wrong(texts: Sequence[str]) -> None:
        if len(filling.model.texts) > 50:
            raise ConfigError("the key is wrong")

    filling.model.hook = wrong
    with pytest.raises(ConfigError):
        await filling.attempt(backfill)
    failed = await filling.get(backfill)
    filling.model.hook = None
    filling.model.texts.clear()
    again = await filling.store.start(
        filling.house.org_id, filling.space.id, options=BackfillOptions(share=0.9, quiet=quiet)
    )
    assert (again.id, again.status) == (failed.id, "queued")
    assert again.options == failed.options.model_copy(update={"share": 0.9, "quiet": (*quiet,)})
    ended = await filling.attempt(again, now=lambda: datetime(2026, 11, 23, 20, tzinfo=UTC))
    assert (ended.status, len(filling.model.texts)) == ("done", 100 - failed.chunks)
    await filling.assert_complete()


async def test_one_that_runs_cannot_be_resumed(make_filling: MakeFilling):
    filling = await make_filling()
    org, backfill = filling.house.org_id, await filling.start(lanes=1)
    refused: list[ConflictError] = []

    async def resume(texts: Sequence[str]) -> None:
        filling.model.hook = None
        with pytest.raises(ConflictError) as error:
            await filling.store.resume(org, backfill.id)
        refused.append(error.value)

    filling.model.hook = resume
    assert (await filling.attempt(backfill)).status == "done"
    assert [error.details["status"] for error in refused] == ["running"]


async def test_a_cancel_ends_the_work_and_lets_the_space_be_dropped(make_filling: MakeFilling):
    filling = await make_filling()
    org, backfill = filling.house.org_id, await filling.start()
    held = asyncio.Event()

    async def hold(texts: Sequence[str]) -> None:
        held.set()
        await asyncio.Event().wait()

    filling.model.hook = hold
    async with asyncio.timeout(60):
        attempt = asyncio.create_task(filling.attempt(backfill))
        await held.wait()
        assert (await filling.store.cancel(org, backfill.id)).status == "cancelled"
        with pytest.raises(CancelledByRequestError):
            await attempt
    assert await filling.status() == "failed"
    with pytest.raises(ConflictError):
        await filling.store.resume(org, backfill.id)
    await filling.house.stores.spaces.drop(org, filling.space.id)


async def test_a_worker_that_was_replaced_commits_nothing(make_filling: MakeFilling):
    filling = await make_filling()
    backfill = await filling.start(lanes=1)
    held, go = asyncio.Event(), asyncio.Event()

    async def hang(texts: Sequence[str]) -> None:
        if len(filling.model.texts) > 40 and not held.is_set():
            held.set()
            await asyncio.shield(go.wait())

    filling.model.hook = hang
    async with asyncio.timeout(60):
        former = asyncio.create_task(filling.attempt(backfill))
        await held.wait()
        assert (await filling.attempt(backfill)).status == "done"
        go.set()
        with pytest.raises(Exception, match="no longer this worker's"):
            await former
    await filling.assert_complete()
