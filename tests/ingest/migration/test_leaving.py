"""Reading an organisation out of Basic in slices that no time limit meets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

from agentcy_ray.context.basic.engine import BasicEngine
from agentcy_ray.context.basic.leaving import Leaving
from agentcy_ray.context.basic.slices import ranges
from agentcy_ray.context.engine import EntityKind
from agentcy_ray.core.ids import base32
from tests.ingest.conftest import MakeHouse
from tests.ingest.memory_source import MemorySource, chain


async def test_slices_hold_each_entity_once(make_house: MakeHouse) -> None:
    house = await make_house(MemorySource(graph=chain(60)))
    assert (await house.sync()).status == "synced"
    bolt = cast("BasicEngine", house.engine)._bolt
    asked: list[Any] = []

    class Counted(type(bolt)):
        def __init__(self) -> None:
            self.__dict__ |= bolt.__dict__

        def cursor(self, text: str, params: Any, **more: Any) -> Any:
            asked.append((params["low"], params["high"]))
            return super().cursor(text, params, **more)

    there = (await bolt.read("MATCH (n:Entity) RETURN count(n) AS found"))[0]["found"]
    kinds: tuple[EntityKind, ...] = ("node", "edge")
    for kind in kinds:
        whole = await ids(Leaving(bolt), house.org_id, kind)
        asked.clear()
        sliced = await ids(Leaving(Counted(), slice_rows=there // 6), house.org_id, kind)
        assert len(asked) >= 6
        assert len(whole) >= 59
        assert sorted(sliced) == sorted(whole)


def test_ranges_of_ids_meet_and_leave_nothing_out() -> None:
    found = list(ranges(16))
    assert len(found) == 16
    assert found[0][0] == ""
    assert found[-1][1] > f"n_{base32((1 << 128) - 1)}"
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert [low for low, _ in found] == sorted(low for low, _ in found)
    assert list(ranges(0)) == [("", "\uffff")]


async def ids(leaving: Leaving, org_id: Any, kind: EntityKind) -> list[str]:
    return [id_ async for batch in leaving.seen(org_id, kind) for id_ in batch["id"].to_pylist()]
