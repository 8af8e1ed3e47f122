from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from agentcy_ray.connectors.base import Batch
from agentcy_ray.connectors.records import BatchBuilder, clean_text, json_object
from agentcy_ray.core.batches import SOURCE_SCHEMAS


def collect(builder: BatchBuilder, rows: list[dict]) -> list[Batch]:
    batches = [batch for row in rows if (batch := builder.add(**row))]
    if last := builder.flush():
        batches.append(last)
    return batches


@settings(deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec=None), max_size=40), max_size=60),
    rows_limit=st.integers(1, 7),
    bytes_limit=st.integers(50, 400),
)
def test_every_row_comes_out_once_in_order_and_batches_keep_their_bounds(
    texts, rows_limit, bytes_limit
):
    rows = [{"label": "Doc", "external_id": text} for text in texts]
    batches = collect(BatchBuilder("tombstones", rows_limit, bytes_limit), rows)
    seen = [text for batch in batches for text in batch.rows.column("external_id").to_pylist()]
    assert seen == [clean_text(text) for text in texts]
    for batch in batches:
        assert batch.rows.schema == SOURCE_SCHEMAS["tombstones"]
        assert 1 <= batch.rows.num_rows <= rows_limit
        assert batch.rows.num_rows == 1 or batch.rows.nbytes <= bytes_limit + 2 * 64


def test_a_row_larger_than_the_bound_travels_alone():
    builder = BatchBuilder("documents", 100, 1000)
    small = {"label": "F", "external_id": "a", "text": "x", "media_type": "text/plain"}
    batches = collect(builder, [small, {**small, "text": "y" * 5000}, small])
    assert [batch.rows.num_rows for batch in batches] == [1, 1, 1]


@pytest.mark.parametrize("row", [{"label": "A"}, {"label": "A", "external_id": "1", "colour": 2}])
def test_a_row_with_missing_or_unknown_columns_is_refused(row):
    with pytest.raises(TypeError, match=r"external_id|colour"):
        BatchBuilder("tombstones").add(**row)


def test_nul_and_lone_surrogates_are_replaced_everywhere():
    builder = BatchBuilder("nodes")
    builder.add(
        labels=["F\x00"],
        external_id="a\udcff",
        name="n\x00",
        properties={"path\x00": "b\udcff", "deep": ["\x00", {"k": "\ud800"}]},
    )
    batch = builder.flush()
    assert batch is not None
    row = batch.rows.to_pylist()[0]
    assert row["labels"] == ["F\ufffd"]
    assert (row["external_id"], row["name"], row["realm"]) == ("a\ufffd", "n\ufffd", None)
    assert orjson.loads(row["properties"]) == {
        "path\ufffd": "b\ufffd",
        "deep": ["\ufffd", {"k": "\ufffd"}],
    }


def test_json_objects_are_equal_text_for_equal_content():
    moment = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
    one = {"b": moment, "a": UUID(int=1), "c": {"y": 1, "x": Decimal("2.50")}}
    two = {
        "c": {"x": 2.5, "y": Decimal(1)},
        "a": str(UUID(int=1)),
        "b": moment.astimezone(timezone(timedelta(hours=3))),
    }
    assert json_object(one) == json_object(two)
    assert json_object(one) == (
        '{"a":"00000000-0000-0000-0000-000000000001","b":"2026-05-01T12:30:00Z",'
        '"c":{"x":2.5,"y":1}}'
    )


def test_values_without_a_json_form_are_made_plain():
    value = {"n": float("nan"), "i": 2**80, "p": Path("a/b"), "s": {"b", "a"}, "r": b"\x01\xff"}
    assert orjson.loads(json_object(value)) == {
        "n": None,
        "i": str(2**80),
        "p": "a/b",
        "s": ["a", "b"],
        "r": "01ff",
    }


def test_a_secret_never_becomes_a_property():
    with pytest.raises(TypeError) as caught:
        json_object({"token": SecretStr("canary-1")})
    assert "canary-1" not in str(caught.value)
