"""Arrow to NDJSON and back, over whatever batches there may be."""

from __future__ import annotations

import base64
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcy_ray.context.kyma.decoder import decode
from agentcy_ray.context.kyma.encoder import lines, slices
from agentcy_ray.context.kyma.instants import instants
from agentcy_ray.core.errors import EngineError, InvalidError

UTC_US = pa.timestamp("us", "UTC")
TYPED = {"flag": "bool", "whole": "long", "real": "real", "seen": "timestamp", "props": "dynamic"}
SCHEMA = pa.schema([
    ("text", pa.string()), ("flag", pa.bool_()), ("whole", pa.int64()), ("real", pa.float64()),
    ("seen", UTC_US), ("props", pa.string()),
])  # fmt: skip

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
).map(lambda value: orjson.dumps({"v": value}, option=orjson.OPT_INDENT_2).decode())
ANY_TIME = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))
TIMES = st.datetimes(datetime(1678, 1, 1), datetime(2262, 1, 1)).map(
    lambda at: at.replace(tzinfo=UTC)
)
"""What kyma's nanoseconds can hold."""
ROWS = st.fixed_dictionaries({
    "text": st.none() | TEXTS,
    "flag": st.none() | st.booleans(),
    "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
    "real": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "seen": st.none() | TIMES,
    "props": st.none() | JSON,
})  # fmt: skip


def body(batch: pa.RecordBatch, types: dict[str, str] | None = None) -> bytes:
    return b"".join(part.body for part in slices(batch, types or {}, 1 << 23))


def rows(batch: pa.RecordBatch, types: dict[str, str] | None = None) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in body(batch, types).splitlines()]


def as_kyma_answers(batch: pa.RecordBatch, types: dict[str, str]) -> bytes:
    """What kyma says for the rows that it was sent: dynamic as hexadecimal."""
    answer: list[bytes] = []
    for row in rows(batch, types):
        if "props" in row:
            row["props"] = orjson.dumps(row["props"]).hex()
        if "seen" in row:
            row["seen"] = row["seen"].removesuffix("Z")
        answer.append(orjson.dumps(row))
    return b"\n".join(answer)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, max_size=12), st.integers(0, 3))
def test_what_is_encoded_decodes_to_the_same_batch(made: list[dict[str, Any]], cut: int) -> None:
    # A batch that begins inside its buffers is encoded like any other.
    batch = pa.RecordBatch.from_pylist(made, SCHEMA).slice(min(cut, len(made)))

    answered = as_kyma_answers(batch, TYPED)
    schema = SCHEMA.set(5, pa.field("props", pa.binary()))
    table = decode(answered, schema)

    assert table.drop_columns("props").to_pylist() == batch.drop_columns(["props"]).to_pylist()
    props = [value and orjson.loads(value) for value in table.column("props").to_pylist()]
    assert props == [value and orjson.loads(value) for value in batch.column("props").to_pylist()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | TEXTS, min_size=1, max_size=30), st.integers(20, 300))
def test_slices_keep_to_their_size_and_hold_every_row_once(
    texts: list[str | None], most: int
) -> None:
    batch = pa.record_batch({"id": [str(i) for i in range(len(texts))], "text": texts})

    parts = list(slices(batch, {}, most))

    assert b"".join(part.body for part in parts) == body(batch)
    assert [part.start for part in parts] == [
        sum(before.rows for before in parts[:i]) for i in range(len(parts))
    ]
    assert all(len(part.body) <= most or part.rows == 1 for part in parts)
    for part in parts:
        assert part.body.count(b"\n") == part.rows
        if part.rows > 1:
            first, second = part.halves()
            assert first.body + second.body == part.body
            assert second.start == part.start + first.rows
            assert [*first.ends, *(second.ends + first.ends[-1])] == [*part.ends]


def test_a_string_column_gets_text_whatever_the_type() -> None:
    batch = pa.record_batch({
        "flag": [True, False], "whole": [1, -(2**63)], "real": [0.5, -2.0],
        "exact": pa.array([Decimal("1.50"), Decimal(2)], pa.decimal128(9, 2)),
        "code": pa.array(["a", "b"]).dictionary_encode(),
        "seen": pa.array([datetime(2026, 6, 1, 10, 0, 0, 125000), None], pa.timestamp("ms")),
        "day": pa.array([date(2026, 6, 1), None]),
        "clock": pa.array([time(10, 30), None]),
        "took": pa.array([timedelta(seconds=2), None], pa.duration("ms")),
        "raw": [b"\xff\x00", None],
        "tree": [{"a": [1], "b": '"'}, None],
        "vector": pa.array([[0.5, 1.0], None], pa.list_(pa.float32(), 2)),
    })  # fmt: skip

    first, second = rows(batch)

    assert first == {
        "flag": "true", "whole": "1", "real": "0.5", "exact": "1.50", "code": "a",
        "seen": "2026-06-01T10:00:00.125000Z", "day": "2026-06-01T00:00:00.000000Z",
        "clock": "10:30:00.000000", "took": "2000", "raw": base64.b64encode(b"\xff\x00").decode(),
        "tree": '{"a":[1],"b":"\\""}', "vector": "[0.5,1]",
    }  # fmt: skip
    assert second == {
        "flag": "false", "whole": str(-(2**63)), "real": "-2", "exact": "2.00", "code": "b",
    }  # fmt: skip


def test_a_typed_column_gets_json_of_its_type() -> None:
    batch = pa.record_batch({
        "whole": [1], "real": [0.5], "seen": pa.array([1], pa.timestamp("ns")),
        "took": pa.array([5], pa.duration("us")), "tree": [{"a": 1}],
        "vector": [[0.5, None]], "flag": [True],
    })  # fmt: skip
    types = {
        "whole": "int", "real": "real", "seen": "timestamp", "took": "long", "tree": "dynamic",
        "vector": "vector(2)", "flag": "bool",
    }  # fmt: skip

    assert rows(batch, types) == [{
        "whole": 1, "real": 0.5, "seen": "1970-01-01T00:00:00.000000001Z", "took": 5,
        "tree": {"a": 1}, "vector": [0.5, None], "flag": True,
    }]  # fmt: skip


def test_numbers_that_json_has_not_are_left_out() -> None:
    batch = pa.record_batch({"id": ["a", "b"], "n": [math.nan, math.inf]})

    assert rows(batch) == [{"id": "a"}, {"id": "b"}]


def test_rows_without_any_value_are_empty_objects() -> None:
    nothing = pa.array([None, None], pa.string())

    assert rows(pa.record_batch({"a": nothing})) == [{}, {}]
    assert rows(pa.record_batch({"a": ["x", None], "b": [None, None]})) == [{"a": "x"}, {}]


def test_a_line_end_inside_raw_json_does_not_end_the_row() -> None:
    batch = pa.record_batch({"props": ['{\n "a":\r\n 1\n}'], "id": ["x\ny"]})

    assert rows(batch) == [{"props": {"a": 1}, "id": "x\ny"}]


@pytest.mark.parametrize("name", ["Id", "a-b", "1a", "", "a" * 64])
def test_a_name_that_kyma_would_drop_is_refused(name: str) -> None:
    with pytest.raises(InvalidError, match="lower_snake_case"):
        list(slices(pa.record_batch({name: ["x"]}), {}, 1000))


def test_a_type_without_a_form_is_refused() -> None:
    interval = pa.array([pa.MonthDayNano([1, 2, 3])])
    with pytest.raises(InvalidError, match="month_day_nano"):
        lines(pa.record_batch({"a": interval}), {})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | ANY_TIME, min_size=1, max_size=8), st.sampled_from(["s", "ms", "us"]))
def test_every_time_has_its_text(times: list[datetime | None], unit: str) -> None:
    part = {"s": 1_000_000, "ms": 1_000, "us": 1}[unit]
    exact = [at and at.replace(microsecond=at.microsecond // part * part) for at in times]

    texts = instants(pa.array(exact, pa.timestamp(unit))).to_pylist()

    assert [text and datetime.fromisoformat(text) for text in texts] == [
        at and at.replace(tzinfo=UTC) for at in exact
    ]


def test_years_beyond_four_digits_still_have_a_text() -> None:
    far = pa.array([253_402_300_800, None], pa.timestamp("s", "UTC"))

    assert instants(far).to_pylist() == ["10000-01-01T00:00:00.000000Z", None]


def test_an_answer_that_is_no_ndjson_is_an_error() -> None:
    with pytest.raises(EngineError, match="NDJSON"):
        decode(b"<html></html>")
    with pytest.raises(EngineError, match="NDJSON"):
        decode(b'{"n":"x"}', pa.schema([("n", pa.int64())]))


def test_numbers_are_read_whether_they_are_json_or_text() -> None:
    schema = pa.schema([("n", pa.int64()), ("share", pa.float64()), ("ok", pa.bool_())])

    table = decode(b'{"n":9007199254740993,"share":1}\n{"share":0.5,"ok":true}', schema)
    texts = decode(b'{"n":"9007199254740993","share":"1"}\n{"share":"0.5","ok":"true"}', schema)

    assert table.to_pydict() == {"n": [2**53 + 1, None], "share": [1.0, 0.5], "ok": [None, True]}
    assert texts.equals(table)
