"""What every Context Engine must answer about nodes, their neighbourhoods and counts."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.context.engine import ContextEngine, Direction, Scope, SearchQuery
from agentcy_ray.core.errors import InvalidError
from tests.conformance.graphs import LATER, Graph, small, write

FEW = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def test_a_node_of_another_organisation_or_realm_is_absent(
    engine: ContextEngine, org: UUID
) -> None:
    graph = small(org)
    await write(engine, graph)
    a, team = graph.id("a"), graph.id("team")

    assert await engine.node(Scope(org_id=uuid4()), a) is None
    assert await engine.node(graph.within("development"), team) is None
    assert await engine.node(graph.within(), a) is None
    assert [n.name for n in await engine.nodes_by_id(graph.within("crm"), [a, team])] == ["team"]


async def test_nodes_come_in_the_order_of_the_ids(engine: ContextEngine, org: UUID) -> None:
    graph = small(org)
    await write(engine, graph)

    nodes = await engine.nodes_by_id(
        graph.scope, [graph.id("c"), "n_absent", graph.id("a"), graph.id("b")]
    )

    assert [node.name for node in nodes] == ["c", "a", "b"]


@pytest.mark.requirement("CTX-05")
async def test_neighbours_stay_inside_the_realms(engine: ContextEngine, org: UUID) -> None:
    graph = small(org)
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
    graph = small(org)
    await write(engine, graph)

    whole = await engine.overview(graph.scope)
    top = await engine.overview(graph.scope, limit=2)

    assert {node.name: node.degree for node in whole.nodes} == {"a": 3, "b": 2, "c": 2, "team": 1}
    assert (len(whole.edges), whole.truncated) == (4, False)
    assert (top.nodes[0].name, len(top.nodes), top.truncated) == ("a", 2, True)


async def test_schema_names_labels_types_and_their_properties(
    engine: ContextEngine, org: UUID
) -> None:
    graph = small(org)
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
    graph = small(org)
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
