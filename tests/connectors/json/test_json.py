"""JSON documents and NDJSON become nodes; they are streamed, bad lines are rejected."""

from __future__ import annotations

import json as stdlib_json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.connectors.base import BATCH_ROWS
from agentcy_ray.connectors.json import JsonConnector
from agentcy_ray.connectors.records import json_object
from agentcy_ray.core.errors import SourceConfigError
from tests.connectors.extracts import context, extract, session_on


async def read(folder: Path, data: bytes, name: str = "t.json", cursors=None, **config: Any):
    (folder / name).write_bytes(data)
    config = {"file_path": str(folder / name), "node_label": "Thing", **config}
    return await extract(JsonConnector(), config, context(folder), cursors)


def properties(found) -> list[dict[str, Any]]:
    return [orjson.loads(row["properties"]) for row in found.rows("nodes")]


RECORDS = [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}]
LIST = orjson.dumps(RECORDS)
LINES = b"\n".join(map(orjson.dumps, RECORDS))


@pytest.mark.requirement("CON-08")
@pytest.mark.parametrize(
    ("data", "name", "path"),
    [
        (LIST, "t.json", ""),
        (b"\xef\xbb\xbf\n " + LIST, "t.json", "$"),
        (b'{"meta":{"n":2},"data":{"items":' + LIST + b"}}", "t.json", "data.items"),
        (b'{"data":{"items":' + LIST + b"}}", "t.json", "$.data.items[*]"),
        (b'{"pages":[{"items":[{"id":1,"v":"a"}]},{"items":[{"id":2,"v":"b"}]}]}', "t.json",
         "pages[*].items"),
        (LINES, "t.json", ""),
        (LINES, "t.ndjson", ""),
        (b"\xef\xbb\xbf" + LINES + b"\n\n", "t.jsonl", ""),
        (b'{"r":{"id":1,"v":"a"}}\n{"r":[{"id":2,"v":"b"}]}\n', "t.txt", "r"),
    ],
)  # fmt: skip
async def test_records_are_found_in_documents_and_in_lines(tmp_path, data, name, path):
    found = await read(tmp_path, data, name, records_path=path, id_path="id")
    assert properties(found) == RECORDS
    assert [row["external_id"] for row in found.rows("nodes")] == ["1", "2"]
    assert found.rejected == []


async def test_a_single_object_is_one_record(tmp_path):
    for data in (b'{"id": 1, "v": "a"}', b'{\n "id": 1,\n "v": "a"\n}\n', b'{"id":1,"v":"a"}\n'):
        assert properties(await read(tmp_path, data)) == RECORDS[:1]


@pytest.mark.requirement("CON-08")
async def test_paths_become_edges_through_lists_and_objects(tmp_path):
    data = orjson.dumps([
        {"key": {"id": "A"}, "title": "First", "owner": {"id": 7, "name": "Ada"},
         "parts": [{"ref": {"sku": "x"}}, {"ref": {"sku": "y"}}], "after": ["B", None, {"z": 1}]},
        {"key": {"id": "B"}, "owner": None},
    ])  # fmt: skip
    found = await read(
        tmp_path,
        data,
        id_path="key.id",
        relationship_paths=[
            {"path": "owner", "type": "OWNED_BY", "label": "Person"},
            {"path": "parts[*].ref", "type": "HAS", "label": "Part", "external_id": "sku"},
            {"path": "after", "type": "AFTER", "label": "Thing"},
        ],
    )
    nodes = {(r["labels"][0], r["external_id"]): r["name"] for r in found.rows("nodes")}
    assert nodes == {
        ("Thing", "A"): "First", ("Thing", "B"): "B", ("Person", "7"): "Ada",
        ("Part", "x"): "x", ("Part", "y"): "y",
    }  # fmt: skip
    edges = found.rows("edges")
    assert [(r["src_external_id"], r["type"], r["dst_external_id"]) for r in edges] == [
        ("A", "OWNED_BY", "7"), ("A", "HAS", "x"), ("A", "HAS", "y"), ("A", "AFTER", "B"),
    ]  # fmt: skip


@pytest.mark.requirement("CON-08")
async def test_texts_that_hold_times_become_times_and_other_values_keep_their_type(tmp_path):
    data = orjson.dumps([
        {"at": "2024-01-02T03:04:05+02:00", "zip": "01234", "n": 5, "x": 1.5, "deep": {"k": [1]}},
        {"at": "2024-05-06", "n": None, "ok": True},
    ])
    assert properties(await read(tmp_path, data)) == [
        {"at": "2024-01-02T01:04:05Z", "zip": "01234", "n": 5, "x": 1.5, "deep": {"k": [1]}},
        {"at": "2024-05-06T00:00:00Z", "n": None, "ok": True},
    ]


async def test_bad_lines_are_rejected_with_their_number_and_the_rest_goes_on(tmp_path):
    data = b'{"id":1}\n{"id":2\n[3]\n"four"\n{"id":null}\n{"id":"\xff"}\n\n{"id":8}\n'
    found = await read(tmp_path, data, "t.ndjson", id_path="id")
    assert [row["external_id"] for row in found.rows("nodes")] == ["1", "8"]
    assert [rejected.where for rejected in found.rejected] == [
        f"line {number}" for number in (2, 3, 4, 5, 6)
    ]
    assert found.rejected[1].reason == "it is a list, not an object"


async def test_list_items_that_are_no_objects_are_rejected_by_position(tmp_path):
    found = await read(tmp_path, b'[{"id":1}, 2, null, {"v": true}]', id_path="id")
    assert [(r.where, r.reason) for r in found.rejected] == [
        ("record 2", "it is a number, not an object"),
        ("record 3", "it is null, not an object"),
        ("record 4", "it has no id at 'id'"),
    ]


async def test_numbers_beyond_64_bits_and_deep_nesting_do_not_stop_the_reading(tmp_path):
    deep = b'{"id":2,"d":' + b"[" * 900 + b"]" * 900 + b"}"
    data = b'[{"id":123456789012345678901234567890},' + deep + b',{"id":3}]'
    found = await read(tmp_path, data, id_path="id")
    assert [row["external_id"] for row in found.rows("nodes")] == [
        "123456789012345678901234567890", "3",
    ]  # fmt: skip
    assert [rejected.reason for rejected in found.rejected] == ["it is nested too deeply"]


@pytest.mark.parametrize("data", [b'[{"id":1},{"id":', b"not json", b"[1 2]", b'{"a":1}}', b"<a/>"])
async def test_a_broken_document_is_a_typed_fault(tmp_path, data):
    with pytest.raises(SourceConfigError, match="not valid JSON") as caught:
        await read(tmp_path, data)
    assert caught.value.details["kind"] == "config"


@pytest.mark.parametrize("data", [b"", b" \n", b"[]", b'{"data":[]}'])
async def test_a_file_without_records_is_an_empty_extract(tmp_path, data):
    path = "data" if b"data" in data else ""
    assert (await read(tmp_path, data, records_path=path)).batches == []


async def test_a_path_without_records_names_what_there_is(tmp_path):
    with pytest.raises(SourceConfigError, match="data, meta") as caught:
        await read(tmp_path, b'{"data":[],"meta":{}}', records_path="items")
    assert caught.value.details["errors"][0]["loc"] == "records_path"


@pytest.mark.parametrize("path", ["a[0]", "a..b", "a[?(@.x)]"])
def test_a_path_with_a_filter_is_refused(tmp_path, path):
    config = {"file_path": str(tmp_path / "t"), "node_label": "T", "records_path": path}
    with pytest.raises(SourceConfigError, match="dotted path"):
        JsonConnector().validate(config, context(tmp_path))


async def test_a_check_reads_no_further_than_the_first_records(tmp_path):
    (tmp_path / "t.json").write_bytes(b"[" + b",".join([b'{"id":1}'] * 20_000) + b",broken")
    config = {"file_path": str(tmp_path / "t.json"), "node_label": "T"}
    session = await session_on(JsonConnector(), config, context(tmp_path))
    await session.check()


async def test_a_large_document_comes_in_bounded_batches(tmp_path):
    data = orjson.dumps([{"id": i, "name": f"n{i}"} for i in range(2 * BATCH_ROWS + 5)])
    found = await read(tmp_path, data, id_path="id")
    assert [batch.rows.num_rows for batch in found.batches] == [BATCH_ROWS, BATCH_ROWS, 5]


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(records=st.lists(st.dictionaries(st.text(max_size=5), JSON_VALUE, max_size=4), max_size=6))
async def test_a_document_and_its_lines_give_the_same_rows(tmp_path, records):
    document = stdlib_json.dumps(records).encode()
    lines = "\n".join(map(stdlib_json.dumps, records)).encode()
    one = await read(tmp_path, document)
    other = await read(tmp_path, lines, "t.ndjson")
    assert one.rejected == other.rejected == []
    assert len(one.rows("nodes")) == len(records)
    assert properties(one) == properties(other)
    assert all(
        json_object(orjson.loads(r["properties"])) == r["properties"] for r in one.rows("nodes")
    )
