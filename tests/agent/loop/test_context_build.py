"""The context build on a real graph, and how names are read out of a question."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from agentcy_ray.agent.context_build import ContextBuilder, named_terms
from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.context.factory import open_engine
from agentcy_ray.core.batches import EDGES, NODES
from agentcy_ray.core.ids import edge_id, new_id, node_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.endpoints import Endpoints
from tests.agent.loop.conftest import World
from tests.agent.loop.kit import Index


@pytest.fixture(scope="module")
async def engine(settings: Settings, endpoints: Endpoints) -> AsyncIterator[ContextEngine]:
    engine = open_engine(settings, endpoints)
    await engine.prepare()
    yield engine
    await engine.close()


async def sync(engine: ContextEngine, world: World) -> None:
    """A commit by a person that changes a file."""
    source, now = new_id(), datetime.now(UTC)
    names = [
        ("Person", "Ada Lovelace"),
        ("Commit", "1a2b3c4d5e6f"),
        ("File", "engine/analytical.py"),
    ]
    ids = [node_id(world.org_id, "development", source, label, name) for label, name in names]
    rows = [
        {
            "id": id_,
            "labels": [label],
            "realm": "development",
            "name": name,
            "properties": json.dumps({"path": name}),
            "connector": "git",
            "source_id": source.hex,
            "external_id": name,
            "content_hash": "0" * 32,
        }
        for id_, (label, name) in zip(ids, names, strict=True)
    ]
    edges = [
        {
            "id": edge_id(src, type_, dst, source),
            "src": src,
            "dst": dst,
            "type": type_,
            "realm": "development",
            "properties": "{}",
            "source_id": source.hex,
            "content_hash": "0" * 32,
        }
        for src, type_, dst in ((ids[1], "AUTHORED_BY", ids[0]), (ids[1], "CHANGES", ids[2]))
    ]
    nodes = pa.RecordBatch.from_pylist(rows, schema=NODES)
    await engine.upsert_nodes(world.org_id, nodes, now)
    links = pa.RecordBatch.from_pylist(edges, schema=EDGES)
    await engine.upsert_edges(world.org_id, links, now)


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("What did Ada Lovelace do?", "Ada Lovelace"),
        ("Who wrote engine/analytical.py?", "engine/analytical.py"),
        ("Who wrote analytical.py?", "engine/analytical.py"),
        ("What is in commit 1a2b3c4?", "1a2b3c4d5e6f"),
    ],
)
async def test_a_named_entity_is_told_with_its_neighbours(
    world: World, engine: ContextEngine, question: str, title: str
) -> None:
    await sync(engine, world)
    await world.start(question)
    run = await world.claim()
    built = await ContextBuilder(engine, Index(), world.conversations).build(run, None, 32_000)
    assert built.warnings == ()
    assert [(piece.kind, piece.title) for piece in built.evidence] == [("entity", title)]
    assert "AUTHORED_BY" in built.evidence[0].text or "CHANGES" in built.evidence[0].text


async def test_a_named_entity_of_another_realm_is_not_told(
    world: World, engine: ContextEngine
) -> None:
    await sync(engine, world)
    await world.start("What did Ada Lovelace do?", realm="knowledge")
    run = await world.claim()
    built = await ContextBuilder(engine, Index(), world.conversations).build(run, None, 32_000)
    assert built.evidence == ()


@pytest.mark.parametrize(
    ("question", "terms"),
    [
        ("What is in agent/runlog.py and core/ids.py?", ["agent/runlog.py", "core/ids.py"]),
        ("Who calls `open_engine` in ContextBuilder?", ["open_engine", "ContextBuilder"]),
        ("Why was #42 closed by grace@navy.mil?", ["#42", "grace@navy.mil"]),
        ("what did Grace Hopper say about it?", ["Grace Hopper"]),
        ("is commit 9fceb02 in?", ["9fceb02"]),
        ("how does it work?", []),
    ],
)
def test_terms_that_may_be_names_are_read_out_of_a_question(
    question: str, terms: list[str]
) -> None:
    assert named_terms(question) == terms
