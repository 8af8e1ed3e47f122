"""The same Cypher text gives the same rows on every engine: cases with their rows, by theme."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from agentcy_ray.context.engine import ContextEngine, Query
from agentcy_ray.core.errors import QueryRejectedError
from tests.conformance.cypher_cases.company import company
from tests.conformance.graphs import Graph, write

THEMES = sorted((Path(__file__).parent / "cypher_cases").glob("*.yaml"))


@pytest.fixture(scope="session")
async def staff(engine: ContextEngine) -> Graph:
    """The company's graph, written once for each engine."""
    graph = company(uuid4())
    await write(engine, graph)
    return graph


def _with_ids(value: Any, graph: Graph) -> Any:
    if isinstance(value, str) and value.startswith("@"):
        return graph.id(value[1:])
    if isinstance(value, list):
        return [_with_ids(each, graph) for each in value]
    return value


def _shape(rows: list[Any], *, ordered: bool) -> list[str]:
    texts = [json.dumps(row, sort_keys=True) for row in rows]
    return texts if ordered else sorted(texts)


@pytest.mark.requirement("CTX-03")
@pytest.mark.parametrize("theme", THEMES, ids=lambda path: path.stem)
async def test_a_query_gives_the_rows_that_its_case_says(
    engine: ContextEngine, staff: Graph, theme: Path
) -> None:
    wrong: list[str] = []
    for case in yaml.safe_load(theme.read_text()):
        ordered = case.get("ordered", False)
        params = {name: _with_ids(each, staff) for name, each in case.get("params", {}).items()}
        result = await engine.query(staff.scope, Query(text=case["text"], params=params))
        found = _shape([list(row) for row in result.rows], ordered=ordered)
        if found != _shape(case["rows"], ordered=ordered):
            wrong.append(f"{case['text']}\n  expected {case['rows']}\n  found {found}")
    assert not wrong, "\n".join(wrong)


def test_there_are_enough_cases() -> None:
    assert sum(len(yaml.safe_load(theme.read_text())) for theme in THEMES) >= 120


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("MATCH (n) RETURN m.name", "m"),
        ("MATCH (n) WHERE count(n) > 1 RETURN n", "count"),
        ("MATCH (n) RETURN 1 / 0", "/"),
        ("MATCH (n) RETURN n SKIP 'x'", "SKIP"),
    ],
)
async def test_what_has_no_meaning_is_refused(
    engine: ContextEngine, staff: Graph, text: str, token: str
) -> None:
    with pytest.raises(QueryRejectedError) as caught:
        await engine.query(staff.scope, Query(text=text))

    if engine.capabilities.engine == "advanced":
        assert (caught.value.details["line"], caught.value.details["token"]) == (1, token)
        assert caught.value.details["instead"]
