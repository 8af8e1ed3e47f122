"""What ingest stores, derives and refuses."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.devkyma.conftest import Talk


async def test_a_table_comes_into_being_in_the_default_shape(talk: Talk):
    done = await talk.ingest({
        "at": "2026-06-01T10:00:00.125Z",
        "label": "a",
        "props": {"ok": True},
    })
    acknowledged = done.json()
    assert done.status_code == 200
    assert set(acknowledged) == {
        "snapshot_id", "extent_count", "rows_ingested", "bytes_written", "replayed",
    }  # fmt: skip
    assert (acknowledged["rows_ingested"], acknowledged["replayed"]) == (1, False)
    schema = (await talk.client.get("/v1/catalog/schema")).json()
    tables = next(d["tables"] for d in schema["databases"] if d["name"] == talk.database)
    assert [(c["name"], c["type"]) for c in tables[0]["columns"]] == [
        ("at", "timestamp"), ("label", "string"), ("body", "string"), ("props", "dynamic"),
    ]  # fmt: skip


async def test_rows_leave_nulls_out_and_show_times_without_zone_and_dynamic_as_hex(talk: Talk):
    await talk.ingest(
        {"at": "2026-06-01T12:00:00.25+02:00", "label": "a", "props": {"ok": True}},
        {"at": "2026-06-01T10:00:01Z", "props": "as is", "body": None},
    )
    assert await talk.rows("SELECT * FROM t ORDER BY at") == [
        {"at": "2026-06-01T10:00:00.250", "label": "a", "props": b'{"ok":true}'.hex()},
        {"at": "2026-06-01T10:00:01", "props": b"as is".hex()},
    ]


async def test_unknown_keys_become_string_columns_and_odd_ones_are_dropped(talk: Talk):
    row = {
        "realm": "r",
        "userId": "u",
        "no good": "x",
        "9lives": "x",
        "Label": "other",
        "n" * 64: "x",
    }
    assert (await talk.ingest(row)).status_code == 200
    assert await talk.rows("SELECT * FROM t") == [{"realm": "r", "userId": "u"}]
    assert await talk.rows('SELECT "userId" AS u FROM T') == [{"u": "u"}]
    assert await talk.refused("SELECT userId FROM t") == (400, "sql_parse_error")


async def test_at_most_32_columns_are_added_by_one_request(talk: Talk):
    await talk.ingest({f"c{i}": "v" for i in range(33)})
    (row,) = await talk.rows("SELECT * FROM t")
    assert len(row) == 32
    assert "c32" not in row
    await talk.ingest({"c32": "v"})
    assert len(await talk.rows("SELECT c32 FROM t WHERE c32 = 'v'")) == 1


async def test_evolution_and_creation_can_be_switched_off(talk: Talk):
    missing = await talk.ingest({"label": "a"}, x_auto_create="false")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "table_not_found")
    await talk.ingest({"label": "a", "realm": "r"}, x_schema_evolve="off")
    assert await talk.rows("SELECT * FROM t") == [{"label": "a"}]


@pytest.mark.parametrize(
    "line",
    [
        b'{"note":1}', b'{"note":true}', b'{"note":{}}', b'{"note":[]}', b'{"label":1}',
        b'{"at":"yesterday"}', b'{"at":"2026-13-01T00:00:00Z"}', b'{"at":true}', b"[1]", b'"text"',
        b"null", b'{"a":"1"',
    ],
)  # fmt: skip
async def test_one_line_that_does_not_fit_refuses_the_batch(talk: Talk, line: bytes):
    await talk.ingest({"note": "fine"})
    refused = await talk.ingest(b'{"note":"lost"}\n' + line)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request_body")
    assert await talk.rows("SELECT count(*) AS n FROM t") == [{"n": 1}]


async def test_a_body_without_rows_makes_the_table_only(talk: Talk):
    done = await talk.ingest(b"\n \n")
    assert done.json()["rows_ingested"] == 0
    assert await talk.rows("SELECT * FROM t") == []


async def test_a_missing_time_is_taken_from_the_timestamp(talk: Talk):
    await talk.ingest({"label": "a", "timestamp": "2026-06-01T10:00:00Z"})
    assert await talk.rows("SELECT at FROM t") == [{"at": "2026-06-01T10:00:00"}]


async def test_numbers_in_timestamp_are_read_by_their_size(talk: Talk):
    for number in (1_780_308_000, 1_780_308_000_000, 1_780_308_000_000_000, 1_780_308_000 * 10**9):
        await talk.ingest({"timestamp": number}, x_schema_evolve="false")
    assert await talk.rows("SELECT DISTINCT at FROM t") == [{"at": "2026-06-01T10:00:00"}]


async def test_a_key_is_answered_with_its_first_answer(talk: Talk):
    key = talk.server.database()
    first = (await talk.ingest({"label": "a"}, x_idempotency_key=key)).json()
    again = (await talk.ingest({"label": "b"}, {"label": "c"}, x_idempotency_key=key)).json()
    assert again == {**first, "extent_count": 0, "replayed": True}
    assert await talk.rows("SELECT label FROM t") == [{"label": "a"}]
    elsewhere = await talk.ingest({"label": "a"}, table="other", x_idempotency_key=key)
    assert elsewhere.json()["replayed"] is True


async def test_a_repeated_row_without_a_key_is_stored_twice(talk: Talk):
    for _ in range(2):
        await talk.ingest({"id": "n1"})
    assert await talk.rows("SELECT id FROM t") == [{"id": "n1"}] * 2


async def test_a_body_needs_a_table_and_has_a_limit(talk: Talk):
    missing = await talk.client.post("/v1/ingest", content=b"{}")
    assert missing.json()["error"]["code"] == "missing_table_header"
    line = b'{"label":"' + b"x" * (1024 * 1024) + b'"}\n'
    over = await talk.ingest(line * 65)
    assert (over.status_code, over.json()["error"]["code"]) == (413, "body_too_large")


async def test_typed_columns_take_their_types_only(talk: Talk):
    if talk.server.real:
        pytest.skip("typed tables are made by kyma's command line")
    columns = {
        "at": "timestamp", "n": "long", "i": "int", "x": "real", "b": "bool", "v": "vector(3)",
    }  # fmt: skip
    spec = {"database": talk.database, "table": "t", "columns": columns}
    assert (await talk.client.post("/dev/tables", json=spec)).status_code == 201
    good = {"n": 2**60, "i": "42", "x": 1, "b": True, "v": [1, 0, 0.5]}
    assert (
        await talk.ingest({**good, "label": "dropped: no column of this table"})
    ).status_code == 200
    for bad in ({"i": 2**40}, {"b": 1}, {"x": []}, {"v": [1, 2]}, {"v": None}):
        assert (await talk.ingest({**good, **bad})).status_code == 400, bad
    (row,) = await talk.rows("SELECT *, cosine_distance(v, make_array(2, 0, 1)) AS d FROM t")
    assert row.pop("d") == pytest.approx(0, abs=1e-9)
    assert row == {"n": 2**60, "i": 42, "x": 1.0, "b": True, "v": [1.0, 0.0, 0.5]}
    flight = talk.server.do_get(database=talk.database, query="SELECT * FROM t")
    assert flight.schema.field("v").type.list_size == 3
    assert flight.schema.field("at").type == pa.timestamp("ns")
