"""Random histories of a source: whatever the way, the stores end where a plain model says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.core.errors import StoreUnavailableError
from tests.ingest.harness import House
from tests.ingest.memory_source import Graph, NodeKey

KEYS: list[NodeKey] = [("Item", f"i{n}") for n in range(6)] + [("Note", f"n{n}") for n in range(3)]
keys = st.sampled_from(KEYS)
edges = st.tuples(keys, st.sampled_from(["KNOWS", "NEXT"]), keys)
words = st.sampled_from(["alpha", "beta", "gamma delta", "ünï ☂"])
changes = st.one_of(
    st.tuples(st.just("node"), keys, words, st.integers(0, 2)),
    st.tuples(st.just("drop"), keys),
    st.tuples(st.just("orphan"), keys),
    st.tuples(st.just("edge"), edges, st.integers(0, 2)),
    st.tuples(st.just("unedge"), edges),
    st.tuples(st.just("document"), keys, words),
    st.tuples(st.just("undocument"), keys),
)
steps = st.tuples(
    st.lists(changes, max_size=6),
    st.one_of(st.sampled_from(["full", "incremental", "incremental", "broken"]), st.integers(0, 5)),
)


def apply(graph: Graph, change: tuple[Any, ...]) -> None:
    match change:
        case ("node", key, name, n):
            graph.nodes[key] = {"name": name, "n": n}
        case ("drop", key):
            graph.drop(key)
        case ("orphan", key):  # its edges stay, and dangle
            graph.nodes.pop(key, None)
            graph.documents.pop(key, None)
        case ("edge", edge, step):
            graph.edges[edge] = {"step": step}
        case ("unedge", edge):
            graph.edges.pop(edge, None)
        case ("document", key, text) if key in graph.nodes:
            graph.documents[key] = f"The body says {text}."
        case ("undocument", key):
            graph.documents.pop(key, None)
        case _:
            pass


@pytest.mark.requirement("ING-08")
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=st.lists(steps, min_size=2, max_size=7))
async def test_any_history_of_syncs_ends_in_the_state_of_its_source(make_house, history):
    house: House = await make_house(package_delta_max=2, pipeline_batch_size=3)
    published: list[tuple[Any, Graph]] = []
    for mutations, how in history:
        for change in mutations:
            apply(house.source.graph, change)
        if how == "broken":
            house.embedder.error = StoreUnavailableError("away")
            try:
                await house.sync()
            except StoreUnavailableError:
                house.embedder.error = None
                continue  # half published: the next one mends it
            house.embedder.error = None
        elif isinstance(how, int):
            if not published:
                continue
            package_id, state = published[how % len(published)]
            await house.revert(package_id)
            await house.assert_holds(state)
            continue
        else:
            await house.sync(mode=how, force=True)
        await house.assert_holds(house.source.graph)
        state = (await house.row())["current_package_id"], house.source.graph.copy()
        published.append(state)
