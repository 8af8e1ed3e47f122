"""Explore and continuous pipelines where the Advanced engine answers."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import orjson
import pyarrow as pa
import pytest

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.embedded import ensure_embedded
from agentcy_ray.stores.endpoints import Endpoints
from tests.api.platform import Platform, open_platform
from tests.api.test_context_pipelines import pipeline, post, published, token
from tests.api.test_explore_routes import ARROW
from tests.conftest import MakeDatabase


@pytest.fixture(scope="module")
async def advanced(
    settings: Settings,
    endpoints: Endpoints,
    make_database: MakeDatabase,
    embedder: LocalEmbedder,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    """A platform on the embedded Advanced engine."""
    kyma = await ensure_embedded(settings, frozenset({"kyma"}), until_exit_of=os.getpid())
    own = replace(
        endpoints, database_url=await make_database(), kyma_url=kyma.kyma_url,
        kyma_flight_url=kyma.kyma_flight_url, kyma_token=kyma.kyma_token,
    )  # fmt: skip
    folder, mine = tmp_path_factory.mktemp("advanced"), f"explore_{uuid4().hex[:8]}"
    async with open_platform(
        own, folder, embedder, context_engine="advanced", kyma_database=mine
    ) as opened:
        yield opened


async def ask(platform: Platform, language: str, text: str, **how: Any) -> Any:
    owner = await platform.as_("owner")
    body = {"language": language, "query": text, "realm": "data"}
    answer = await owner.post("/context/query", json=body, **how)
    assert answer.status_code == 200, answer.text
    return answer


def lines(*records: Any) -> bytes:
    return b"\n".join(orjson.dumps(record) for record in records)


@pytest.mark.requirement("PIPE-02")
@pytest.mark.requirement("CTX-09")
async def test_events_and_nodes_of_pipelines_are_asked_in_every_language(
    advanced: Platform,
) -> None:
    nodes = await pipeline(advanced, "ships", target_table="context_nodes")
    events = await pipeline(advanced, "calls")
    ships, calls = await token(advanced, nodes), await token(advanced, events)
    fleet = [{"label": "Ship", "external_id": f"s{n}", "name": f"Ship {n}", "n": n} for n in (1, 2)]
    assert (await post(advanced, ships["url"], lines(*fleet))).status_code == 200
    seen = {"label": "call", "body": "in port", "severity": "INFO"}
    times = ["2026-01-01T10:05:00Z", "2026-01-01T10:55:00Z", "2026-01-01T11:00:00Z"]
    took = await post(advanced, calls["url"], lines(*({**seen, "at": at} for at in times)))
    assert took.json()["accepted"] == 3
    await published(advanced)
    # a field that no record before had is there at once, and null in the older ones
    later = lines({**seen, "at": "2026-01-01T12:00:00Z", "tide": 2.5})
    assert (await post(advanced, calls["url"], later)).status_code == 200
    await published(advanced)

    found = (await ask(advanced, "cypher", "MATCH (s:Ship) RETURN s.name, s.n ORDER BY s.n")).json()
    assert found["rows"] == [["Ship 1", 1], ["Ship 2", 2]]
    found = (await ask(advanced, "sql", "SELECT name FROM context_nodes ORDER BY name")).json()
    assert found["rows"] == [["Ship 1"], ["Ship 2"]]
    hourly = (
        await ask(advanced, "kql", "context_events | summarize n = count() by bin(at, 1h)")
    ).json()
    assert sorted(row[1] for row in hourly["rows"]) == [1, 1, 2]
    assert (hourly["chart"]["kind"], hourly["chart"]["y"]) == ("line", ["n"])
    tides = (
        await ask(advanced, "kql", "context_events | order by at asc | project toreal(props.tide)")
    ).json()
    assert [row[0] for row in tides["rows"]] == [None, None, None, 2.5]


@pytest.mark.requirement("CTX-08")
@pytest.mark.requirement("PIPE-07")
async def test_spans_of_the_last_ninety_days_are_summed_up(advanced: Platform) -> None:
    made = await pipeline(advanced, "spans", kind="otlp")
    key = (await token(advanced, made))["token"]
    now = time.time_ns()

    def span(name: str, days: int, millis: int) -> dict[str, Any]:
        start = now - days * 86_400_000_000_000
        return {
            "traceId": uuid4().hex, "spanId": uuid4().hex[:16], "name": name,
            "startTimeUnixNano": str(start), "endTimeUnixNano": str(start + millis * 1_000_000),
        }  # fmt: skip

    spans = [span("GET", 1, 10), span("GET", 1, 30), span("PUT", 80, 5), span("PUT", 100, 7)]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    export = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    answer = await post(advanced, "/otlp/spans/v1/traces", orjson.dumps(export), **headers)
    assert (answer.status_code, answer.json()) == (200, {})
    await published(advanced)
    text = (
        "context_events | where label == 'span' and service == 'shop' and at > ago(90d)"
        " | summarize calls = count(), took = avg(duration_ms) by body | order by body asc"
    )
    assert (await ask(advanced, "kql", text)).json()["rows"] == [["GET", 2, 20.0], ["PUT", 1, 5.0]]


@pytest.mark.requirement("CTX-10")
async def test_answers_come_as_arrow_and_natively(advanced: Platform) -> None:
    made = await pipeline(advanced, "pings")
    url = (await token(advanced, made))["url"]
    await post(advanced, url, lines(*({"label": "ping", "body": f"p{n}"} for n in range(3))))
    await published(advanced)
    text = "context_events | where label == 'ping' | project at, body | order by body asc"
    answer = await ask(advanced, "kql", text, headers=ARROW)
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.column("body").to_pylist() == ["p0", "p1", "p2"]
    assert pa.types.is_timestamp(table.schema.field("at").type)

    owner = await advanced.as_("owner")
    query = "SELECT count(*) AS n FROM context_events WHERE label = 'ping'"
    native = await owner.post("/context/query/native", json={"language": "sql", "query": query})
    assert native.json()["rows"] == [{"n": 3}], native.text
    broken = await owner.post("/context/query/native", json={"language": "sql", "query": "SELEC"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (422, "query_rejected")


async def test_explore_offers_what_basic_offers_and_more(advanced: Platform) -> None:
    owner = await advanced.as_("owner")
    ports = await pipeline(advanced, "ports", target_table="context_nodes", realm="crm")
    url = (await token(advanced, ports))["url"]
    await post(advanced, url, lines({"label": "Port", "external_id": "p", "name": "Port Said"}))
    await published(advanced)
    examples = (await owner.get("/context/examples")).json()
    assert {example["language"] for example in examples} == {"cypher", "kql", "sql"}
    for example in examples:
        answer = await owner.post("/context/query", json=example)
        assert answer.status_code == 200, (example, answer.text)
    for language in ("cypher", "kql", "sql"):
        params = {"language": language, "realm": "crm"}
        given = (await owner.get("/context/completion", params=params)).json()
        assert given["labels"] == ["Port"], given
        assert given["functions"]
    picture = (await owner.get("/context/graph", params={"realm": "crm"})).json()
    assert picture["labels"] == {"Port": 1}
    found = (await owner.get("/context/search", params={"q": "port said"})).json()
    assert (found["total"], found["labels"]) == (1, [{"value": "Port", "count": 1}])
    assert sum(bucket["count"] for bucket in found["histogram"]) == 1
