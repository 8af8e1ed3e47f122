"""A change of the embedding model: search answers all the time, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from agentcy_ray.core.errors import ConfigError, ConflictError
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.swap.expiry import drop_expired
from agentcy_ray.retrieval.query_sample import QuerySample
from agentcy_ray.retrieval.vector_backends import VectorBackends
from tests.ingest.swap.conftest import MakeSwapping
from tests.ingest.swap.swapping import WORDS, Swapping


class Load:
    """People who ask, one question after the other, until they are told to stop."""

    def __init__(self, swapping: Swapping, people: int = 3) -> None:
        self._swapping = swapping
        self._people = people
        self._stop = asyncio.Event()
        self.asked = 0
        self.many = asyncio.Event()
        self.spaces: list[object] = []
        self.empty: list[str] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._ask(i)) for i in range(self._people)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)  # raises what any question met

    async def _ask(self, person: int) -> None:
        number = person
        while not self._stop.is_set():
            query = f"{WORDS[number % len(WORDS)]}stone"
            found = await self._swapping.ask(query)
            self.asked += 1
            if self.asked > 10:
                self.many.set()
            if not self.spaces or self.spaces[-1] != found.space:
                self.spaces.append(found.space)
            if not found.hits:
                self.empty.append(query)
            number += self._people


@pytest.mark.requirement("EMB-07")
async def test_search_answers_throughout_a_swap_and_a_roll_back(make_swapping: MakeSwapping):
    swapping = await make_swapping(200)
    former = await swapping.active()
    async with Load(swapping) as load:

        async def asked_meanwhile(_: Sequence[str]) -> None:
            """The space is filled no further before people have been answered."""
            await asyncio.wait_for(load.many.wait(), 60)

        swapping.new.hook = asked_meanwhile
        swap = await swapping.swap()
        assert swap.status == "cut_over", (swap.reason, swap.gate)
        assert load.many.is_set()
        later = await swapping.active()
        assert (later.id, later.embedder) == (swap.to_space, swapping.new.info.reference)
        while load.spaces[-1] != later.id:
            await swapping.ask("cedar")
        await swapping.desk.swaps.rollback(swapping.house.principal, swap.id)
        while load.spaces[-1] != former.id:
            await swapping.ask("cedar")
    assert load.empty == []
    assert (await swapping.active()).id == former.id
    assert (await swapping.now(swap)).status == "rolled_back"
    assert swap.gate is not None
    assert swap.gate.passed
    assert swap.gate.recall.mean >= 0.95
    assert swap.gate.coverage.missing == 0
    assert await swapping.texts(former.id) == await swapping.texts(swap.to_space)


async def test_what_is_published_during_a_swap_is_in_both_spaces(make_swapping: MakeSwapping):
    swapping = await make_swapping(120)
    graph = swapping.house.source.graph
    first = swapping.old.texts.copy()

    async def publish(texts: object) -> None:
        swapping.new.hook = None
        graph.nodes["Item", "i3"]["name"] = "a walrus in the middle"
        graph.drop(("Item", "i7"))
        assert (await swapping.house.sync()).status == "synced"

    swapping.new.hook = publish
    swap = await swapping.swap()
    assert swap.status == "cut_over"
    assert swap.gate is not None
    assert len(swapping.old.texts) > len(first), "the former space was written too"
    held = await swapping.texts(swap.from_space)
    assert held == await swapping.texts(swap.to_space)
    assert any("walrus" in text for _, text in held)
    assert not any("harbourland 7 " in f"{text} " for _, text in held)

    graph.nodes["Item", "i4"]["name"] = "an ibex after it"
    await swapping.house.sync()
    await swapping.desk.swaps.rollback(swapping.house.principal)
    found = await swapping.ask("ibex")
    assert found.space == swap.from_space
    assert "ibex" in found.hits[0].name
    assert await swapping.texts(swap.from_space) == await swapping.texts(swap.to_space)


async def test_a_swap_below_its_floor_waits_with_its_figures_until_it_is_forced(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping(60, script="dim=4,seed=3")
    sample = QuerySample(swapping.house.db, swapping.house.settings)
    for query in (
        "fjordland",
        "garnet",
        "mail me at a@example.org",
        "sk-" + "a" * 40,
        "0176 1234567",
    ):
        sample.note(swapping.org_id, query)
    await sample.close()
    assert sorted(await sample.read(swapping.org_id, 10)) == ["fjordland", "garnet"]

    swap = await swapping.swap(min_overlap=1.0)
    assert swap.status == "ready"
    assert swap.gate is not None
    assert swap.gate.overlap.asked == 2
    assert swap.gate.overlap.made > 0
    assert swap.gate.overlap.mean < 1.0
    assert f"{swap.gate.overlap.mean:.3f}" in str(swap.reason)
    assert (await swapping.active()).id == swap.from_space
    again = await swapping.check(swap)
    assert (again.status, again.gate and again.gate.at > swap.gate.at) == ("ready", True)

    principal = swapping.house.principal
    assert swap.to_space is not None
    with pytest.raises(ConflictError, match="may not cut over") as refused:
        await swapping.desk.activate(principal, swap.to_space)
    assert refused.value.code == "state_conflict"
    state = await swapping.desk.activate(principal, swap.to_space, force=True)
    assert state.space.status == "active"
    forced = await swapping.now(swap)
    assert (forced.status, forced.forced_by) == ("cut_over", principal.user_id)


async def test_a_swap_that_is_held_waits_for_somebody_to_activate_it(make_swapping: MakeSwapping):
    swapping = await make_swapping()
    swap = await swapping.swap(activate=False)
    assert (swap.status, swap.reason) == ("ready", "it may be activated")
    with pytest.raises(ConflictError, match="under way"):
        await swapping.plan()
    assert swap.to_space is not None
    both = await swapping.ask("fjordland fjordwork", space="both")
    assert (both.space, both.beside) == (swap.from_space, swap.to_space)
    scores = [hit.score for hit in both.hits]
    assert 1.0 >= scores[0] > 0.9
    assert scores == sorted(scores, reverse=True)
    alone = [await swapping.ask("fjordland fjordwork", space=space) for space in
             (swap.from_space, swap.to_space)]  # fmt: skip
    first = {found.hits[0].node_id for found in alone}
    assert first & {hit.node_id for hit in both.hits[:2]}
    await swapping.search.routes.ask_both(swapping.org_id, True)
    assert (await swapping.ask("fjordland fjordwork")).beside == swap.to_space
    await swapping.search.routes.ask_both(swapping.org_id, False)
    assert (await swapping.ask("fjordland fjordwork")).beside is None
    await swapping.desk.activate(swapping.house.principal, swap.to_space)
    assert (await swapping.now(swap)).status == "cut_over"
    assert (await swapping.ask("fjordland fjordwork")).space == swap.to_space


async def test_what_the_new_space_lacks_or_has_too_much_is_mended_before_it_answers(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping()
    swap = await swapping.swap(activate=False)
    new = await swapping.house.stores.spaces.get(swapping.org_id, swap.to_space or swap.id)
    async with swapping.house.db.tenant(swapping.org_id) as connection:
        await connection.execute(
            f"DELETE FROM {new.table_name} WHERE external_id IN ('i1', 'i2', 'i3')"
        )
        await connection.execute(
            f"INSERT INTO {new.table_name} SELECT (t).* FROM (SELECT jsonb_populate_record(t,"
            " jsonb_build_object('chunk_key', 'stale', 'text', 'stale')) AS t"
            f" FROM {new.table_name} t WHERE external_id = 'i9') s"
        )
    checked = await swapping.check(swap)
    assert checked.gate is not None
    assert (checked.gate.coverage.mended, checked.gate.coverage.missing) == (4, 0)
    assert await swapping.texts(swap.from_space) == await swapping.texts(swap.to_space)


async def test_a_swap_that_is_cancelled_leaves_the_former_space_alone(make_swapping: MakeSwapping):
    swapping = await make_swapping()
    swap = await swapping.plan()
    principal = swapping.house.principal

    async def call_off(texts: object) -> None:
        swapping.new.hook = None
        await swapping.desk.swaps.cancel(principal, swap.id)

    swapping.new.hook = call_off
    with pytest.raises(Exception, match=r"cancelled|moved on"):
        await swapping.carry_out(swap)
    assert (await swapping.now(swap)).status == "cancelled"
    assert await swapping.statuses() == {
        swapping.old.info.reference: "active", swapping.new.info.reference: "failed",
    }  # fmt: skip
    written = len(swapping.new.texts)
    swapping.house.source.graph.nodes["Item", "i4"]["name"] = "later"
    await swapping.house.sync()
    assert len(swapping.new.texts) == written, "publishes pass the given-up space by"
    assert (await swapping.swap()).status == "cut_over"


async def test_a_swap_that_failed_goes_on_where_it_was(make_swapping: MakeSwapping):
    swapping = await make_swapping()
    first = await swapping.plan()

    async def refuse(texts: object) -> None:
        raise ConfigError("the key of the model is wrong")

    swapping.new.hook = refuse
    with pytest.raises(ConflictError, match="the key of the model is wrong"):
        await swapping.carry_out(first)
    failed = await swapping.now(first)
    assert failed.status == "failed"
    assert "swap again to go on" in (failed.error or {})["message"]
    assert (await swapping.ask("cedar")).hits
    swapping.new.hook = None
    again = await swapping.plan()
    assert (again.id, again.status) == (first.id, "backfilling")
    done = await swapping.carry_out(again)
    assert (done.status, done.to_space) == ("cut_over", failed.to_space)


async def test_the_former_space_is_dropped_when_its_grace_is_over(make_swapping: MakeSwapping):
    swapping = await make_swapping(embedding_retired_days=0)
    swap = await swapping.swap()
    assert swap.status == "cut_over"
    await swapping.house.sync()
    house = swapping.house
    assert await drop_expired(house.db, house.stores.spaces, VectorBackends(house.settings)) >= 1
    assert (await swapping.now(swap)).status == "done"
    assert await swapping.statuses() == {swapping.new.info.reference: "active"}
    with pytest.raises(ConflictError, match="no swap that was cut over"):
        await swapping.desk.swaps.rollback(house.principal)
    with pytest.raises(ConflictError, match="answers already"):
        await swapping.swap()


async def test_a_swap_back_after_the_grace_fills_a_new_space(make_swapping: MakeSwapping):
    swapping = await make_swapping(embedding_retired_days=0)
    first = await swapping.swap()
    swapping.house.source.graph.nodes["Item", "i4"]["name"] = "an ibex after it"
    await swapping.house.sync()  # passes the former space by
    swapping.new = swapping.old
    back = await swapping.swap()
    assert (back.status, back.from_space) == ("cut_over", first.to_space)
    assert back.to_space != first.from_space
    assert (await swapping.ask("ibex")).space == back.to_space
    assert await swapping.texts(back.to_space) == await swapping.texts(back.from_space)


async def test_going_back_and_forth_needs_no_second_backfill(make_swapping: MakeSwapping):
    swapping = await make_swapping()
    first = await swapping.swap()
    await swapping.desk.swaps.rollback(swapping.house.principal)
    assert first.from_space is not None
    embedded = len(swapping.new.texts)
    again = await swapping.swap()
    assert (again.status, again.to_space) == ("cut_over", first.to_space)
    bulk = [text for text in swapping.new.texts[embedded:] if text.startswith("Item |")]
    assert bulk == [], "the space was written all the time"
    kept = await swapping.house.stores.spaces.get(swapping.org_id, first.from_space)
    assert kept.retired_at is not None
    assert kept.drop_after == kept.retired_at + timedelta(days=7)
    assert encode("spc", kept.id).startswith("spc_")
