"""What every Context Engine must do with what it is given, whatever it stores in."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.context.engine import ContextEngine, SearchQuery
from agentcy_ray.core.batches import NODES
from agentcy_ray.core.errors import InvalidError
from tests.conformance.graphs import LATER, SEEN, Graph, small, write

FEW = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.requirement("CTX-01")
async def test_a_node_comes_back_as_it_went_in(engine: ContextEngine, org: UUID) -> None:
    graph = Graph(org)
    properties = {
        "text": "naïve 😀 'quoted' `ticks` \\u0041",
        "whole": 3, "broken": 3.0, "yes": True, "big": 2**62, "huge": 2**63, "empty": "",
        "tags": ["a", "b"], "none_of_them": [], "mixed": [1, "a", None],
        "nested": {"a": [{"b": 1}]},
        "id": "clash", "id_": "clash too", "org": "mine", "_labels": ["x"], "labels": ["bug"],
        "with space": 1, "@type": "x", "_@type": "y", "dot.ted": 2,
        "": "nameless", "_": "underscore",
        "url": "https://example.com/" + "x" * 4000,
    }  # fmt: skip
    properties = json.loads(json.dumps(properties))
    id_ = graph.node("a", "Issue", "Work item", name="The first", **properties)
    await write(engine, graph)

    node = await engine.node(graph.scope, id_)

    assert node is not None
    assert node.properties == properties
    assert {k: type(v) for k, v in node.properties.items()} == {
        k: type(v) for k, v in properties.items()
    }
    assert (node.id, node.labels, node.realm) == (id_, ("Issue", "Work item"), "development")
    assert (node.name, node.degree, node.content_hash) == ("The first", 0, "0" * 32)
    assert (node.source.connector, node.source.external_id) == ("demo", "a")
    assert (node.first_seen, node.last_seen, node.archived_at) == (SEEN, SEEN, None)


@FEW
@given(
    properties=st.dictionaries(
        st.text(st.characters(exclude_categories=["C"]), max_size=8),
        st.recursive(
            st.booleans()
            | st.integers(-(2**70), 2**70)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(exclude_categories=["C"]), max_size=3), inner,
                              max_size=3),
            max_leaves=5,
        ),
        max_size=6,
    )
)  # fmt: skip
async def test_any_json_properties_come_back_as_they_went_in(
    engine: ContextEngine, properties: dict[str, object]
) -> None:
    graph = Graph(uuid4())
    row = graph.node("a")
    graph.nodes["a"]["properties"] = json.dumps(properties)
    await write(engine, graph)

    node = await engine.node(graph.scope, row)

    assert node is not None
    assert _approximate(node.properties) == _approximate(json.loads(json.dumps(properties)))


def _approximate(value: object) -> object:
    """Integers beyond 64 bits are read as floats by fast JSON readers."""
    if isinstance(value, dict):
        return {key: _approximate(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_approximate(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return float(value)
    return value


@pytest.mark.requirement("CTX-01")
async def test_the_same_batch_twice_leaves_the_same_graph(engine: ContextEngine, org: UUID) -> None:
    graph = small(org)
    await write(engine, graph)
    once = await engine.stats(graph.scope)

    await write(engine, graph, LATER)

    assert await engine.stats(graph.scope) == once
    assert (once.nodes, once.edges) == (4, 4)


@pytest.mark.requirement("KYMA-07")
async def test_an_update_replaces_properties_and_keeps_the_first_sight(
    engine: ContextEngine, org: UUID
) -> None:
    graph = Graph(org)
    id_ = graph.node("a", old=1, kept=2)
    await write(engine, graph)
    graph.node("a", kept=3)

    await write(engine, graph, LATER)

    node = await engine.node(graph.scope, id_)
    assert node is not None
    assert (node.properties, node.first_seen, node.last_seen) == ({"kept": 3}, SEEN, LATER)


async def test_an_update_may_change_the_secondary_labels(engine: ContextEngine, org: UUID) -> None:
    graph = small(org)
    await write(engine, graph)
    graph.node("b", "Service", "Critical", "Public")
    await write(engine, graph)
    graph.node("b", "Service", "Public")

    await write(engine, graph, LATER)

    counts = await engine.stats(graph.scope)
    assert counts.labels == {"Service": 3, "Team": 1, "Public": 1}
    assert counts.edges == 4
    around = await engine.neighbors(graph.scope, graph.id("b"))
    assert {node.name for node in around.nodes} == {"a", "b", "c"}


@pytest.mark.requirement("KYMA-07")
async def test_archived_entities_are_hidden_until_they_are_seen_again(
    engine: ContextEngine, org: UUID
) -> None:
    graph = small(org)
    await write(engine, graph)

    assert (await engine.archive(org, "node", [graph.id("b"), "n_absent"], LATER)).rows == 1
    assert (await engine.archive(org, "node", [graph.id("b")], LATER)).rows == 0
    archived = [edge["id"] for edge in graph.edges if edge["type"] == "OWNS"]
    assert (await engine.archive(org, "edge", archived, LATER)).rows == 1

    assert await engine.node(graph.scope, graph.id("b")) is None
    assert await engine.existing(org, [graph.id("a"), graph.id("b")]) == {graph.id("a")}
    counts = await engine.stats(graph.scope)
    assert (counts.nodes, counts.types) == (3, {"CALLS": 1})
    assert (await engine.search(graph.scope, SearchQuery(text="service b"))).total == 0
    assert {n.name for n in (await engine.overview(graph.scope)).nodes} == {"a", "c", "team"}

    await write(engine, graph, LATER)
    assert (await engine.stats(graph.scope)).edges == 4


async def test_archiving_reaches_no_other_organisation(engine: ContextEngine, org: UUID) -> None:
    graph = small(org)
    await write(engine, graph)
    stranger = uuid4()

    nodes = await engine.archive(stranger, "node", [graph.id("a")], LATER)
    edges = await engine.archive(stranger, "edge", [graph.edges[0]["id"]], LATER)

    assert (nodes.rows, edges.rows) == (0, 0)
    assert (await engine.stats(graph.scope)).edges == 4


async def test_pruning_deletes_what_was_archived_before_a_time(
    engine: ContextEngine, org: UUID
) -> None:
    graph = small(org)
    await write(engine, graph)
    await engine.archive(org, "node", [graph.id("b")], SEEN)
    await engine.archive(org, "node", [graph.id("c")], LATER)
    await engine.archive(org, "edge", [edge["id"] for edge in graph.edges], SEEN)

    assert await engine.prune(org, uuid4(), LATER) == 0
    assert await engine.prune(org, graph.source, LATER) == 5
    assert await engine.prune(org, graph.source, LATER + timedelta(days=1)) == 1
    assert (await engine.stats(graph.scope)).nodes == 2


async def test_erasing_an_organisation_leaves_nothing_of_it_and_all_of_others(
    engine: ContextEngine, org: UUID
) -> None:
    graph, neighbour = small(org), small(uuid4())
    for each in (graph, neighbour):
        await write(engine, each)
    await engine.archive(org, "node", [graph.id("b")], SEEN)

    gone = [count async for count in engine.erase(org)]

    assert sum(gone) > 0
    assert not await engine.holds(org, graph.source)
    assert (await engine.stats(graph.scope)).nodes == 0
    assert (await engine.stats(neighbour.scope)).nodes == 4
    assert sum([count async for count in engine.erase(org)]) == 0


async def test_an_edge_without_its_end_is_left_out_and_counted_so(
    engine: ContextEngine, org: UUID
) -> None:
    graph = small(org)
    await engine.upsert_nodes(
        org, pa.RecordBatch.from_pylist([graph.nodes["a"], graph.nodes["b"]], schema=NODES), SEEN
    )

    written = await engine.upsert_edges(org, graph.edge_batch(), SEEN)

    assert written.rows == 1
    assert (await engine.stats(graph.scope)).edges == 1


async def test_parallel_edges_and_loops_are_kept_apart(engine: ContextEngine, org: UUID) -> None:
    graph = Graph(org)
    for key in "ab":
        graph.node(key)
    graph.edge("a", "CALLS", "b")
    graph.edge("a", "OWNS", "b")
    graph.edge("b", "CALLS", "a")
    graph.edge("a", "CALLS", "a")
    await write(engine, graph)
    await write(engine, graph)

    around = await engine.neighbors(graph.scope, graph.id("a"))

    assert {edge.id for edge in around.edges} == {edge["id"] for edge in graph.edges}
    assert (await engine.stats(graph.scope)).types == {"CALLS": 3, "OWNS": 1}


async def test_racing_writers_leave_every_row_once(engine: ContextEngine, org: UUID) -> None:
    graph = Graph(org)
    for number in range(40):
        graph.node(f"n{number}")
    for number in range(39):
        graph.edge(f"n{number}", "NEXT", f"n{number + 1}")

    await asyncio.gather(*(engine.upsert_nodes(org, graph.node_batch(), SEEN) for _ in range(4)))
    await asyncio.gather(*(engine.upsert_edges(org, graph.edge_batch(), SEEN) for _ in range(4)))

    counts = await engine.stats(graph.scope)
    assert (counts.nodes, counts.edges) == (40, 39)


async def test_a_hub_with_many_edges_is_written_again_without_duplicates(
    engine: ContextEngine, org: UUID
) -> None:
    graph = Graph(org)
    graph.node("hub", "Repository")
    for number in range(600):
        graph.node(f"n{number}", "File")
        graph.edge("hub", "CONTAINS", f"n{number}", position=number)
    await write(engine, graph)
    await write(engine, graph, LATER)

    hub = await engine.node(graph.scope, graph.id("hub"))
    cut = await engine.neighbors(graph.scope, graph.id("hub"), limit=100)

    assert hub is not None
    assert hub.degree == 600
    assert (len(cut.nodes), len(cut.edges), cut.truncated) == (100, 99, True)


async def test_malformed_properties_are_refused_by_name(engine: ContextEngine, org: UUID) -> None:
    graph = Graph(org)
    id_ = graph.node("a")
    graph.nodes["a"]["properties"] = "[1]"

    with pytest.raises(InvalidError, match=id_):
        await write(engine, graph)


async def test_a_label_that_no_store_can_hold_is_refused(engine: ContextEngine, org: UUID) -> None:
    graph = Graph(org)
    graph.node("a", "Bad\\u0060label")

    with pytest.raises(InvalidError, match="label"):
        await write(engine, graph)
