"""Continuous pipelines through the API: who may post, what is taken, and where it is read."""

from __future__ import annotations

import asyncio
import gzip
import hmac
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx2 as httpx
import orjson
import pytest

from agentcy_ray.core.errors import RateLimitedError
from agentcy_ray.ingest.continuous.file_drop import drop_folder
from agentcy_ray.ingest.continuous.intake import Intake
from agentcy_ray.stores.keys.opening import open_vault
from tests.api.platform import API, Platform

NDJSON = {"content-type": "application/x-ndjson"}


@dataclass
class Standing:
    """A clock that goes by hand."""

    moment: datetime = field(default_factory=lambda: datetime.now(UTC))

    def now(self) -> datetime:
        return self.moment


def lines(*records: Any) -> bytes:
    """NDJSON; text stays as it is."""
    return b"\n".join(r.encode() if isinstance(r, str) else orjson.dumps(r) for r in records)


async def pipeline(platform: Platform, name: str, who: str = "owner", **body: Any) -> Any:
    new = {"name": name, "kind": "webhook", "realm": "data", **body}
    answer = await (await platform.as_(who)).post("/context/pipelines", json=new)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def token(platform: Platform, made: Any, **body: Any) -> Any:
    client = await platform.as_("owner")
    answer = await client.post(f"/context/pipelines/{made['id']}/tokens", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def post(platform: Platform, url: str, body: bytes, **headers: str) -> httpx.Response:
    """Post as a sender does, who has no login."""
    async with platform.client() as client:
        path = url.partition(API)[2] if API in url else url
        return await client.post(path, content=body, headers=NDJSON | headers)


async def published(platform: Platform) -> None:
    """Wait until no segment waits for a reader; the worker rings at the end of each job."""
    async with (
        asyncio.timeout(60),
        platform.services.bell.listen(f"ch:jobs:{platform.org_id.hex}") as ear,
    ):
        text = "SELECT count(*) AS n FROM pipeline_segments WHERE published_at IS NULL"
        while (await platform.sql(text))[0]["n"]:
            await ear.next(5)


async def rows(platform: Platform, text: str) -> list[Any]:
    client = await platform.as_("owner")
    answer = await client.post("/context/query", json={"query": text, "realms": ["data"]})
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.requirement("PIPE-02", "PIPE-03")
async def test_records_posted_as_lines_are_queried_and_bad_lines_are_named(
    platform: Platform,
) -> None:
    made = await pipeline(platform, "ships", target_table="context_nodes")
    key = await token(platform, made)
    body = lines(
        {"label": "Ship", "external_id": "s1", "name": "Ada", "flag": "CH", "tons": 7},
        "not json",
        {"label": "Ship"},
        "[1]",
        "",
        {"label": "Ship", "external_id": 2, "labels": ["Boat"], "properties": {"flag": "FR"}},
    )
    answer = await post(platform, key["url"], body)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["accepted"], said["rejected"]) == (2, 3)
    assert [error["line"] for error in said["errors"]] == [2, 3, 4]
    assert "external_id is missing" in said["errors"][1]["reason"]

    sails = await pipeline(platform, "sails", target_table="context_edges")
    other = await token(platform, sails)
    edge = {
        "type": "FOLLOWS", "src": {"label": "Ship", "external_id": "2"},
        "dst": {"label": "Ship", "external_id": "s1"}, "since": 1999,
    }  # fmt: skip
    path = f"/context/pipelines/{sails['id']}/ingest"
    bearer = {"authorization": f"Bearer {other['token']}", "content-type": "application/json"}
    answer = await post(platform, path, gzip.compress(orjson.dumps([edge])), **bearer,
                        **{"content-encoding": "gzip"})  # fmt: skip
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1), answer.text
    await published(platform)
    found = await rows(
        platform, "MATCH (a:Boat)-[r:FOLLOWS]->(b:Ship) RETURN a.name, b.name, b.flag, r.since"
    )
    assert found == [["2", "Ada", "CH", 1999]]

    again = await post(platform, key["url"], lines({"label": "Ship", "external_id": "s1"}))
    assert again.json()["run_id"] == said["run_id"]
    await published(platform)
    assert await rows(platform, "MATCH (s:Ship) RETURN s.name ORDER BY s.name") == [["2"], ["s1"]]
    client = await platform.as_("viewer")
    (run,) = (await client.get(f"/context/pipelines/{made['id']}/runs")).json()["items"]
    assert run | {"started_at": None, "bytes": 0} == {
        "id": said["run_id"], "status": "open", "requests": 2, "accepted": 3, "rejected": 3,
        "segments": 2, "published": 2, "bytes": 0, "rejects": said["errors"], "counts": {},
        "started_at": None, "sealed_at": None,
    }  # fmt: skip


async def test_events_follow_the_mapping_of_their_pipeline(platform: Platform) -> None:
    mapping = {
        "label": {"const": "order"}, "body": "text", "at": "when.at", "event_id": "key",
        "properties.total": "sum",
    }  # fmt: skip
    owner = await platform.as_("owner")
    new = {"name": "orders", "kind": "webhook", "realm": "data", "mapping": mapping}
    refused = await owner.post("/context/pipelines", json=new)
    assert error_of(refused) == (422, "validation_failed")
    assert "there are: at, label, body" in refused.json()["error"]["message"]
    del mapping["properties.total"]
    made = await pipeline(platform, "orders", mapping=mapping)
    url = (await token(platform, made))["url"]
    order = {"key": "o1", "text": "paid", "when": {"at": "2026-01-02T03:04:05Z"}, "total": 9}
    for _ in range(2):
        assert (await post(platform, url, lines(order))).status_code == 200
    none = await post(platform, url, lines({"when": {"at": "yesterday"}}))
    assert (none.status_code, none.json()["accepted"], none.json()["rejected"]) == (422, 0, 1)
    await published(platform)
    found = await rows(platform, "MATCH (e:Event:order) RETURN e.body, e.at, e.total")
    assert found == [["paid", "2026-01-02T03:04:05.000000Z", 9]]


@pytest.mark.requirement("PIPE-04")
async def test_who_has_no_valid_token_or_signature_stores_nothing(platform: Platform) -> None:
    made = await pipeline(platform, "signed", require_signature=True)
    bare = await token(platform, made)
    key = await token(platform, made, name="with", with_secret=True)
    assert key["secret"].startswith("whsec_")
    body, now = lines({"body": "x"}), str(int(time.time()))

    def sign(secret: str, text: bytes) -> str:
        return "sha256=" + hmac.new(secret.encode(), text, sha256).hexdigest()

    good = sign(key["secret"], body)
    old = str(int(time.time()) - 301)
    for url, headers, code in (
        (f"{API}/ingest/ctx_{'a' * 32}", {}, "token_invalid"),
        (bare["url"], {"x-agentcy-signature": good}, "signature_invalid"),
        (key["url"], {}, "signature_invalid"),
        (key["url"], {"x-agentcy-signature": good[:-1] + "x"}, "signature_invalid"),
        (key["url"], {"x-agentcy-signature": sign(bare["token"], body)}, "signature_invalid"),
        (
            key["url"],
            {
                "x-agentcy-timestamp": old,
                "x-agentcy-signature": sign(key["secret"], old.encode() + b"." + body),
            },
            "signature_invalid",
        ),
    ):
        assert error_of(await post(platform, url, body, **headers)) == (401, code)
    assert (
        await platform.sql(
            "SELECT 1 FROM context_pipeline_runs r JOIN context_pipelines p ON p.id = r.pipeline_id"
            " WHERE p.name = 'signed'"
        )
        == []
    )
    timed = {
        "x-agentcy-timestamp": now,
        "x-agentcy-signature": sign(key["secret"], now.encode() + b"." + body),
    }
    for headers in ({"x-agentcy-signature": good}, timed):
        assert (await post(platform, key["url"], body, **headers)).status_code == 200
    owner = await platform.as_("owner")
    path = f"/context/pipelines/{made['id']}/tokens"
    assert (await owner.delete(f"{path}/{key['id']}")).status_code == 204
    assert error_of(await post(platform, key["url"], body)) == (401, "token_invalid")
    listed = (await owner.get(path)).json()["items"]
    assert [(item["name"], item["signed"]) for item in listed] == [("with", True), ("token", False)]
    assert key["token"] not in orjson.dumps(listed).decode()


async def test_a_key_gives_the_first_answer_again_also_to_racing_requests(
    platform: Platform,
) -> None:
    url = (await token(platform, await pipeline(platform, "once")))["url"]
    body = lines({"label": "tick"}, {"label": "tick"}, "broken")
    headers = {"x-idempotency-key": "k1"}
    answers = await asyncio.gather(*(post(platform, url, body, **headers) for _ in range(5)))
    answers.append(await post(platform, url, lines({"label": "other"}), **headers))
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert answers[0].json()["accepted"] == 2
    await published(platform)
    assert await rows(platform, "MATCH (e:tick) RETURN count(e)") == [[2]]


async def test_a_body_that_cannot_be_read_is_refused_whole(platform: Platform) -> None:
    url = (await token(platform, await pipeline(platform, "strict")))["url"]
    limit = platform.settings.pipeline_max_body_bytes
    bomb = {"content-encoding": "gzip"}
    for body, headers, expected in (
        (b"<x/>", {"content-type": "text/xml"}, (415, "unsupported_media_type")),
        (b"x", {"content-encoding": "br"}, (415, "unsupported_media_type")),
        (b"no gzip", bomb, (400, "bad_request")),
        (gzip.compress(b"{}")[:-9], bomb, (400, "bad_request")),
        (gzip.compress(b" " * (limit + 1)), bomb, (413, "payload_too_large")),
        (b" " * (limit + 1), {}, (413, "payload_too_large")),
    ):
        assert error_of(await post(platform, url, body, **headers)) == expected


async def test_a_token_posts_a_hundred_requests_a_second_at_most(platform: Platform) -> None:
    key = await token(platform, await pipeline(platform, "busy"))
    services = platform.services
    clock = Standing()
    intake = Intake(
        platform.settings, services.db, services.redis, services.objects, services.queue,
        open_vault(platform.settings), clock,
    )  # fmt: skip
    for _ in range(100):
        await intake.enter(key["token"])
    with pytest.raises(RateLimitedError) as refused:
        await intake.enter(key["token"])
    assert refused.value.details["retry_after_secs"] >= 1
    clock.moment += timedelta(seconds=1)
    await intake.enter(key["token"])


@pytest.mark.requirement("PIPE-06")
async def test_a_dropped_file_is_taken_once_per_version(platform: Platform) -> None:
    config = {"prefix": "drops/parts", "format": "csv"}
    made = await pipeline(
        platform, "parts", kind="file_drop", target_table="context_nodes", config=config,
        mapping={"label": {"const": "Part"}, "external_id": "no"},
    )  # fmt: skip
    services = platform.services
    folder = drop_folder(platform.org_id, "drops/parts")
    await services.objects.put_new(f"{folder}/a.csv", b"no,size\n1,L\n2,\n,M\n")
    await services.objects.put_new(f"{folder}/b.csv", b"\xff\xfe\x00")
    assert await services.drops.look() == 1
    async with (
        asyncio.timeout(60), services.bell.listen(f"ch:jobs:{platform.org_id.hex}") as ear
    ):  # fmt: skip
        while await services.drops.look():
            await ear.next(5)
    await published(platform)
    assert await rows(platform, "MATCH (p:Part) RETURN p.name, p.size ORDER BY p.name") == [
        ["1", "L"], ["2", None],
    ]  # fmt: skip
    owner = await platform.as_("owner")
    (run,) = (await owner.get(f"/context/pipelines/{made['id']}/runs")).json()["items"]
    assert (run["accepted"], run["rejected"], run["segments"]) == (2, 1, 1)
    seen = await platform.sql("SELECT key, status FROM file_drop_objects ORDER BY key")
    assert [(row["key"][-5:], row["status"]) for row in seen] == [
        ("a.csv", "done"), ("b.csv", "failed"),
    ]  # fmt: skip
    await services.objects.delete(f"{folder}/a.csv")
    await services.objects.put_new(f"{folder}/a.csv", b"no,size\n1,XL\n")
    assert await services.drops.look() == 1


@pytest.mark.requirement("PIPE-07")
async def test_otlp_exports_are_events_and_answers_have_otlps_shape(platform: Platform) -> None:
    made = await pipeline(platform, "telemetry", kind="otlp")
    key = await token(platform, made)
    bearer = {"authorization": f"Bearer {key['token']}", "content-type": "application/json"}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    at = 1_767_323_045_000_000_000
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
        "name": "GET /", "kind": 2,
        "startTimeUnixNano": str(at), "endTimeUnixNano": str(at + 2_500_000),
        "attributes": [{"key": "http.status", "value": {"intValue": "200"}}], "status": {"code": 2},
    }  # fmt: skip
    log = {"timeUnixNano": str(at), "severityNumber": 17, "body": {"stringValue": "it broke"}}
    point = {"timeUnixNano": str(at), "asDouble": 0.25, "attributes": []}
    exports: dict[str, Any] = {
        "traces": {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]},
        "logs": {
            "resourceLogs": [
                {"resource": resource, "scopeLogs": [{"logRecords": [log, {"body": {}}]}]}
            ]
        },
        "metrics": {
            "resourceMetrics": [
                {
                    "resource": resource,
                    "scopeMetrics": [
                        {"metrics": [{"name": "load", "gauge": {"dataPoints": [point]}}]}
                    ],
                }
            ]
        },
    }
    for _ in range(2):  # an exporter repeats what it got no answer for
        for signal, export in exports.items():
            path = f"/otlp/telemetry/v1/{signal}"
            answer = await post(platform, path, orjson.dumps(export), **bearer)
            assert answer.status_code == 200, answer.text
            partial = answer.json().get("partialSuccess", {})
            assert partial.get("rejectedLogRecords") == ("1" if signal == "logs" else None)
    await published(platform)
    found = await rows(
        platform,
        "MATCH (e:Event) WHERE e.service = 'shop'"
        " RETURN labels(e), e.body, e.severity, e.duration_ms, e.value ORDER BY e.body",
    )
    assert [row[1:] for row in found] == [
        ["GET /", "ERROR", 2.5, None], ["it broke", "ERROR", None, None],
        ["load", None, None, 0.25],
    ]  # fmt: skip
    binary = bearer | {"content-type": "application/x-protobuf"}
    refused = await post(platform, "/otlp/telemetry/v1/logs", b"", **binary)
    assert (refused.status_code, refused.json()["code"]) == (415, 3)
    stranger = await post(platform, f"/otlp/{made['id']}/v1/logs", b"{}")
    assert (stranger.status_code, stranger.json()["code"]) == (401, 16)


@pytest.mark.requirement("PIPE-08")
async def test_what_no_pipeline_can_be_is_refused_with_its_reason(platform: Platform) -> None:
    owner = await platform.as_("owner")
    folder = {"prefix": "x", "format": "csv"}
    drop = {"kind": "file_drop", "config": folder}
    for body, expected in (
        ({"kind": "kafka"}, (422, "capability_unsupported")),
        ({**drop, "config": {**folder, "bucket": "b"}}, (422, "capability_unsupported")),
        ({**drop, "config": {"prefix": "../x", "format": "csv"}}, (422, "validation_failed")),
        ({**drop, "require_signature": True}, (422, "validation_failed")),
        ({"kind": "otlp", "target_table": "context_nodes"}, (422, "validation_failed")),
        ({"kind": "webhook", "realm": "nowhere"}, (422, "validation_failed")),
    ):
        answer = await owner.post("/context/pipelines", json={"name": "refused", **body})
        assert error_of(answer) == expected, body
    config = {"name": "mine", "connector": "pipelines", "config": {}}
    assert error_of(await owner.post("/sources", json=config)) == (422, "source_config_invalid")
    names = {one["name"] for one in (await owner.get("/catalog/connectors")).json()["items"]}
    assert "pipelines" not in names


async def test_a_pipeline_is_changed_switched_off_and_deleted(platform: Platform) -> None:
    made = await pipeline(platform, "brief")
    url = (await token(platform, made))["url"]
    owner, path = await platform.as_("owner"), f"/context/pipelines/{made['id']}"
    changed = await owner.patch(path, json={"enabled": False, "name": "briefer"})
    assert (changed.json()["name"], changed.json()["enabled"]) == ("briefer", False)
    assert error_of(await post(platform, url, b"{}")) == (404, "not_found")
    assert (await owner.delete(path)).status_code == 204
    assert error_of(await owner.get(path)) == (404, "not_found")


async def test_the_runs_of_a_connector_are_its_sources_syncs(platform: Platform) -> None:
    source = await platform.source(name="synced", connector="demo", realm="data", config={})
    run = await platform.sync(source["id"])
    made = await pipeline(platform, "synced", kind="connector", config={"source_id": source["id"]})
    owner = await platform.as_("owner")
    (shown,) = (await owner.get(f"/context/pipelines/{made['id']}/runs")).json()["items"]
    assert (shown["id"], shown["status"], shown["counts"]) == (
        run["id"], "synced", run["counts"],
    )  # fmt: skip
