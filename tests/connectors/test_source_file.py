"""A source file by URL and by object key: fetched within bounds, typed faults, own files only."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from werkzeug import Request, Response

from agentcy_ray.connectors.csv import CsvConnector
from agentcy_ray.connectors.objects import OrgObjects
from agentcy_ray.core.errors import SourceConfigError, TooLargeError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.http import fetch
from agentcy_ray.stores.objects import open_objects
from tests.connectors.extracts import context, extract, session_on
from tests.egress import loopback_guard

TABLE = "id,name\n1,one\n2,two\n"


def by_url(url: str, **config):
    return {"url": url, "node_label": "Row", "id_column": "id", **config}


async def fault_of(url: str, folder: Path, **config) -> SourceConfigError:
    session = await session_on(CsvConnector(), by_url(url, **config), context(folder))
    with pytest.raises(SourceConfigError) as caught:
        await session.check()
    return caught.value


async def test_a_table_behind_a_url_is_read_and_leaves_no_file_behind(tmp_path, httpserver):
    httpserver.expect_request(
        "/t.csv", headers={"Authorization": "Bearer s3cret"}
    ).respond_with_data(TABLE)
    here = context(tmp_path)
    config = by_url(httpserver.url_for("/t.csv"), headers={"Authorization": "Bearer s3cret"})
    found = await extract(CsvConnector(), config, here)
    assert [row["name"] for row in found.rows("nodes")] == ["one", "two"]
    assert list(here.work_dir.iterdir()) == []
    again = await extract(CsvConnector(), config, here, found.cursors)
    assert (again.mode.full, again.batches) == (False, [])


async def test_redirects_are_followed_and_headers_stay_with_their_origin(tmp_path, httpserver):
    seen: list[str | None] = []

    def table(request: Request) -> Response:
        seen.append(request.headers.get("X-Key"))
        return Response(TABLE)

    httpserver.expect_request("/there").respond_with_handler(table)
    httpserver.expect_request("/near").respond_with_handler(table)
    elsewhere = httpserver.url_for("/there").replace("localhost", "127.0.0.1")
    for path, target in (("/a", "/near"), ("/b", elsewhere)):
        httpserver.expect_request(path).respond_with_data(
            "", status=302, headers={"Location": target}
        )
        config = by_url(httpserver.url_for(path), headers={"X-Key": "k"})
        found = await extract(CsvConnector(), config, context(tmp_path))
        assert len(found.rows("nodes")) == 2
    assert seen == ["k", None]


async def test_redirects_end_after_five(tmp_path, httpserver):
    httpserver.expect_request("/loop").respond_with_data(
        "", status=302, headers={"Location": "/loop"}
    )
    error = await fault_of(httpserver.url_for("/loop"), tmp_path)
    assert error.details["kind"] == "unreachable"
    assert len(httpserver.log) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://me:pw@127.0.0.1/", "gopher://x/"])
async def test_a_redirect_to_a_refused_url_is_refused(tmp_path, httpserver, target):
    httpserver.expect_request("/r").respond_with_data("", status=302, headers={"Location": target})
    error = await fault_of(httpserver.url_for("/r"), tmp_path)
    assert "pw" not in error.message


@pytest.mark.requirement("CON-07")
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "credentials"), (403, "scope"), (404, "unreachable"), (429, "rate_limited"),
     (500, "unreachable")],
)  # fmt: skip
async def test_a_refusing_server_is_a_fault_of_the_right_kind(tmp_path, httpserver, status, kind):
    httpserver.expect_request("/t").respond_with_data("no", status=status)
    error = await fault_of(httpserver.url_for("/t") + "?token=canary", tmp_path)
    assert (error.status, error.code, error.details["kind"]) == (
        422, "source_config_invalid", kind,
    )  # fmt: skip
    assert "canary" not in error.message


@pytest.mark.requirement("CON-07")
async def test_a_host_that_does_not_answer_is_unreachable(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = await fault_of(f"http://127.0.0.1:{port}/t.csv", tmp_path)
    assert error.details["kind"] == "unreachable"
    error = await fault_of("http://no-such-host.invalid/t.csv", tmp_path)
    assert error.details["kind"] == "unreachable"


@pytest.mark.parametrize("url", ["ftp://x.io/a", "file:///etc/passwd", "x.io/a", "http://",
                                 "https://me:secret@x.io/a", "http://[::1"])  # fmt: skip
def test_a_url_that_may_not_be_fetched_is_a_config_fault(tmp_path, url):
    with pytest.raises(SourceConfigError) as caught:
        CsvConnector().validate(by_url(url), context(tmp_path))
    assert caught.value.details["kind"] == "config"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_beyond_the_bound_is_refused_before_it_is_stored(
    tmp_path, httpserver, announced
):
    body = b"x" * 100_000 if announced else iter([b"x" * 20_000] * 5)
    httpserver.expect_request("/big").respond_with_response(Response(body))
    into = tmp_path / "big"
    with pytest.raises(TooLargeError):
        await fetch(httpserver.url_for("/big"), into, guard=loopback_guard(), max_bytes=50_000)
    assert not into.exists() or into.stat().st_size <= 50_000


async def test_a_server_that_stalls_is_given_up_on(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(SourceConfigError, match="took longer"):
            await fetch(url, tmp_path / "x", guard=loopback_guard(), max_bytes=10, timeout_secs=0.2)


async def test_the_proxy_of_the_settings_is_used(tmp_path, httpserver):
    httpserver.expect_request("/t.csv").respond_with_data(TABLE)
    guard = loopback_guard(http_proxy=httpserver.url_for(""))
    got = await fetch("http://data.invalid/t.csv", tmp_path / "t", guard=guard, max_bytes=1000)
    assert got.bytes == len(TABLE)
    assert httpserver.log[0][0].headers["Host"] == "data.invalid"


async def test_an_object_of_the_organisation_is_read_and_others_are_out_of_reach(tmp_path):
    settings = Settings.load({}, agentcy_state_dir=tmp_path / "state")
    store, mine, other = open_objects(settings), new_id(), new_id()
    await store.put_new(f"files/{mine.hex}/in/t.csv", TABLE.encode())
    await store.put_new(f"files/{other.hex}/t.csv", b"id\nforeign\n")
    await store.put_new(f"packages/{mine.hex}/t.csv", b"id\ninternal\n")
    objects = OrgObjects(store, mine)
    assert await objects.list() == ["in/t.csv"]
    here = context(tmp_path, objects)
    config = {"object_key": "in/t.csv", "node_label": "Row", "id_column": "id"}
    found = await extract(CsvConnector(), config, here)
    assert len(found.rows("nodes")) == 2
    for key in (f"../{other.hex}/t.csv", f"/files/{other.hex}/t.csv", "./in/t.csv", "in/../../x"):
        with pytest.raises(SourceConfigError):
            await extract(CsvConnector(), {**config, "object_key": key}, here)
    with pytest.raises(SourceConfigError) as caught:
        await extract(CsvConnector(), {**config, "object_key": "absent.csv"}, here)
    assert caught.value.details["kind"] == "unreachable"


class StreamedObjects(OrgObjects):
    """The same objects, as a bucket gives them: without a local file behind them."""

    def local_path(self, key: str) -> Path | None:
        return None


async def test_an_object_in_a_bucket_is_fetched_for_the_length_of_the_extract(tmp_path):
    settings = Settings.load({}, agentcy_state_dir=tmp_path / "state")
    store, org_id = open_objects(settings), new_id()
    await store.put_new(f"files/{org_id.hex}/t.csv", TABLE.encode())
    here = context(tmp_path, StreamedObjects(store, org_id))
    config = {"object_key": "t.csv", "node_label": "Row", "id_column": "id"}
    found = await extract(CsvConnector(), config, here)
    assert len(found.rows("nodes")) == 2
    assert list(here.work_dir.iterdir()) == []
    again = await extract(CsvConnector(), config, here, found.cursors)
    assert again.batches == []
    with pytest.raises(SourceConfigError) as caught:
        await extract(CsvConnector(), {**config, "object_key": "absent.csv"}, here)
    assert caught.value.details["kind"] == "unreachable"


def test_an_object_key_without_an_object_store_is_a_config_fault(tmp_path):
    config = {"object_key": "t.csv", "node_label": "Row"}
    with pytest.raises(SourceConfigError, match="no object store"):
        CsvConnector().validate(config, context(tmp_path))
