"""Basic and Advanced give the same rows for the same text, whatever the graph."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.conftest import Pair
from tests.conformance.graphs import LATER, Graph, write
from tests.conformance.test_cypher_queries import CORPUS, rows_of


@pytest.mark.slow
@pytest.mark.requirement("CTX-03")
@settings(
    max_examples=2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_engines_agree_on_every_graph(pair: Pair, data: st.DataObject) -> None:
    graph = Graph(uuid4())
    keys = [f"k{number}" for number in range(data.draw(st.integers(2, 6)))]
    for key in keys:
        labels = data.draw(st.sampled_from([("A",), ("B",), ("A", "B")]))
        weight = data.draw(st.sampled_from([{}, {"weight": 1}, {"weight": 2.5}, {"weight": 3}]))
        graph.node(key, *labels, **weight)
    triples = data.draw(
        st.sets(
            st.tuples(st.sampled_from(keys), st.sampled_from("RS"), st.sampled_from(keys)),
            max_size=9,
        )
    )
    for src, type_, dst in sorted(triples):
        graph.edge(src, type_, dst, tag=data.draw(st.sampled_from(["t", "u"])))
    for engine in pair:
        await write(engine, graph)
        await engine.archive(graph.org, "node", [graph.id(keys[0])], LATER)

    for text in CORPUS:
        basic, advanced = [await rows_of(engine, graph.scope, text) for engine in pair]
        assert advanced == basic, text
