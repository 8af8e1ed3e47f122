"""What every Context Engine must do, whatever it stores in."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.context.engine import ContextEngine, Direction, Scope, SearchQuery
from agentcy_ray.core.batches import NODES
from agentcy_ray.core.errors import InvalidError
from tests.conformance.graphs import LATER, SEEN, Graph, write

FEW = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# -- writing ----------------------------------------------------------------------------------


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
    engine: ContextEngine, org: UUID, properties: dict[str, object]
) -> None:
    graph = Graph(org)
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


async def test_the_same_batch_twice_leaves_the_same_graph(engine: ContextEngine, org: UUID) -> None:
    graph = _small(org)
    await write(engine, graph)
    once = await engine.stats(graph.scope)

    await write(engine, graph, LATER)

    assert await engine.stats(graph.scope) == once
    assert (once.nodes, once.edges) == (4, 4)


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
    graph = _small(org)
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


async def test_archived_entities_are_hidden_until_they_are_seen_again(
    engine: ContextEngine, org: UUID
) -> None:
    graph = _small(org)
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
    graph = _small(org)
    await write(engine, graph)
    stranger = uuid4()

    nodes = await engine.archive(stranger, "node", [graph.id("a")], LATER)
    edges = await engine.archive(stranger, "edge", [graph.edges[0]["id"]], LATER)

    assert (nodes.rows, edges.rows) == (0, 0)
    assert (await engine.stats(graph.scope)).edges == 4


async def test_pruning_deletes_what_was_archived_before_a_time(
    engine: ContextEngine, org: UUID
) -> None:
    graph = _small(org)
    await write(engine, graph)
    await engine.archive(org, "node", [graph.id("b")], SEEN)
    await engine.archive(org, "node", [graph.id("c")], LATER)
    await engine.archive(org, "edge", [edge["id"] for edge in graph.edges], SEEN)

    assert await engine.prune(org, uuid4(), LATER) == 0
    assert await engine.prune(org, graph.source, LATER) == 5
    assert await engine.prune(org, graph.source, LATER + timedelta(days=1)) == 1
    assert (await engine.stats(graph.scope)).nodes == 2


async def test_an_edge_without_its_end_is_left_out_and_counted_so(
    engine: ContextEngine, org: UUID
) -> None:
    graph = _small(org)
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


# -- reading ----------------------------------------------------------------------------------


async def test_a_node_of_another_organisation_or_realm_is_absent(
    engine: ContextEngine, org: UUID
) -> None:
    graph = _small(org)
    await write(engine, graph)
    a, team = graph.id("a"), graph.id("team")

    assert await engine.node(Scope(org_id=uuid4()), a) is None
    assert await engine.node(graph.within("development"), team) is None
    assert await engine.node(graph.within(), a) is None
    assert [n.name for n in await engine.nodes_by_id(graph.within("crm"), [a, team])] == ["team"]


async def test_nodes_come_in_the_order_of_the_ids(engine: ContextEngine, org: UUID) -> None:
    graph = _small(org)
    await write(engine, graph)

    nodes = await engine.nodes_by_id(
        graph.scope, [graph.id("c"), "n_absent", graph.id("a"), graph.id("b")]
    )

    assert [node.name for node in nodes] == ["c", "a", "b"]


@pytest.mark.requirement("CTX-05")
async def test_neighbours_stay_inside_the_realms(engine: ContextEngine, org: UUID) -> None:
    graph = _small(org)
    await write(engine, graph)

    inside = await engine.neighbors(graph.within("development"), graph.id("a"), depth=3)

    assert {node.name for node in inside.nodes} == {"a", "b", "c"}
    assert {node.realm for node in inside.nodes} == {"development"}


async def test_bounds_of_a_walk_are_checked(engine: ContextEngine, org: UUID) -> None:
    with pytest.raises(InvalidError, match="depth"):
        await engine.neighbors(Scope(org_id=org), "n_x", depth=4)
    with pytest.raises(InvalidError, match="limit"):
        await engine.neighbors(Scope(org_id=org), "n_x", limit=2001)


async def test_neighbours_of_an_absent_node_are_none(engine: ContextEngine, org: UUID) -> None:
    around = await engine.neighbors(Scope(org_id=org), "n_absent")

    assert (around.nodes, around.edges, around.truncated) == ((), (), False)


@FEW
@given(data=st.data())
async def test_walks_and_counts_equal_a_model_in_python(
    engine: ContextEngine, data: st.DataObject
) -> None:
    graph = Graph(uuid4())
    keys = [f"k{number}" for number in range(data.draw(st.integers(1, 9)))]
    for key in keys:
        label = data.draw(st.sampled_from(["A", "B", "C"]))
        graph.node(key, label, realm=data.draw(st.sampled_from(["development", "crm"])))
    triples = data.draw(
        st.sets(
            st.tuples(st.sampled_from(keys), st.sampled_from(["R", "S"]), st.sampled_from(keys)),
            max_size=20,
        )
    )
    for src, type_, dst in sorted(triples):
        graph.edge(src, type_, dst)
    await write(engine, graph)
    hidden = data.draw(st.sets(st.sampled_from(keys), max_size=3))
    await engine.archive(graph.org, "node", [graph.id(key) for key in hidden], LATER)
    realms = data.draw(st.sampled_from([None, ("development",), ("crm", "development")]))
    scope = Scope(org_id=graph.org, realms=realms)
    seen = {
        key
        for key in keys
        if key not in hidden and (realms is None or graph.nodes[key]["realm"] in realms)
    }
    live = {triple for triple in triples if triple[0] in seen and triple[2] in seen}

    counts = await engine.stats(scope)
    assert (counts.nodes, counts.edges) == (len(seen), len(live))

    start = data.draw(st.sampled_from(keys))
    depth = data.draw(st.integers(1, 3))
    direction: Direction = data.draw(st.sampled_from(["out", "in", "both"]))
    types = data.draw(st.sampled_from([(), ("R",), ("R", "S")]))
    found = await engine.neighbors(
        scope, graph.id(start), depth=depth, direction=direction, types=types
    )
    asked = {triple for triple in live if not types or triple[1] in types}
    expected = _reached(start, asked, depth, direction) if start in seen else set[str]()
    assert {node.name for node in found.nodes} == expected
    assert len(found.edges) == len({t for t in asked if {t[0], t[2]} <= expected})
    assert not found.truncated


def _reached(
    start: str, triples: set[tuple[str, str, str]], depth: int, direction: Direction
) -> set[str]:
    found = {start}
    for _ in range(depth):
        out = {dst for src, _, dst in triples if src in found}
        back = {src for src, _, dst in triples if dst in found}
        found |= {"out": out, "in": back, "both": out | back}[direction]
    return found


async def test_the_overview_shows_the_best_connected_first(
    engine: ContextEngine, org: UUID
) -> None:
    graph = _small(org)
    await write(engine, graph)

    whole = await engine.overview(graph.scope)
    top = await engine.overview(graph.scope, limit=2)

    assert {node.name: node.degree for node in whole.nodes} == {"a": 3, "b": 2, "c": 2, "team": 1}
    assert (len(whole.edges), whole.truncated) == (4, False)
    assert (top.nodes[0].name, len(top.nodes), top.truncated) == ("a", 2, True)


async def test_schema_names_labels_types_and_their_properties(
    engine: ContextEngine, org: UUID
) -> None:
    graph = _small(org)
    graph.node("extra", "Service", colour="red", id="x")
    graph.edge("a", "CALLS", "extra", weight=2)
    await write(engine, graph)

    schema = await engine.schema(graph.scope)

    labels = {label.name: label for label in schema.labels}
    assert (labels["Service"].count, labels["Team"].count) == (4, 1)
    assert set(labels["Service"].properties) == {"colour", "id_"}
    types = {type_.name: type_ for type_ in schema.types}
    assert (types["CALLS"].count, types["CALLS"].properties) == (4, ("weight",))


async def test_an_empty_organisation_answers_everything(engine: ContextEngine, org: UUID) -> None:
    scope = Scope(org_id=org)

    assert (await engine.stats(scope)).nodes == 0
    assert (await engine.schema(scope)).labels == ()
    assert (await engine.overview(scope)).nodes == ()
    assert (await engine.search(scope, SearchQuery(text="anything"))).total == 0
    assert [batch async for batch in engine.export_nodes(org, uuid4())] == []


async def test_an_export_gives_back_the_batch(engine: ContextEngine, org: UUID) -> None:
    graph = _small(org)
    await write(engine, graph)
    await engine.archive(org, "node", [graph.id("c")], LATER)

    rows = [
        row async for batch in engine.export_nodes(org, graph.source) for row in batch.to_pylist()
    ]

    assert {row["id"]: row for row in rows} == {
        row["id"]: row for key, row in graph.nodes.items() if key != "c"
    }


async def test_it_answers_a_ping(engine: ContextEngine) -> None:
    await engine.ping()


def _small(org: UUID) -> Graph:
    """Three services that call each other, and the team of another realm that owns one."""
    graph = Graph(org)
    for key in "abc":
        graph.node(key, "Service")
        graph.nodes[key]["properties"] = json.dumps({})
    graph.node("team", "Team", realm="crm")
    graph.edge("a", "CALLS", "b")
    graph.edge("b", "CALLS", "c")
    graph.edge("a", "CALLS", "c")
    graph.edge("team", "OWNS", "a")
    return graph
