"""CSV files become nodes with typed properties; bad lines are rejected one by one."""

from __future__ import annotations

import csv as stdlib_csv
import io
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.connectors.base import BATCH_ROWS, Rejected
from agentcy_ray.connectors.csv import CsvConnector
from agentcy_ray.core.errors import SourceConfigError
from tests.connectors.extracts import context, extract, session_on

HEADER = "id,name\n"


async def read(folder: Path, data: str | bytes | None, cursors=None, **config: Any):
    path = folder / "t.csv"
    if data is not None:
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    config = {"file_path": str(path), "node_label": "Row", **config}
    return await extract(CsvConnector(), config, context(folder), cursors)


def properties(found) -> list[dict[str, Any]]:
    return [orjson.loads(row["properties"]) for row in found.rows("nodes")]


@pytest.mark.requirement("CON-08")
async def test_types_are_inferred_from_the_values(tmp_path):
    found = await read(
        tmp_path,
        "s,i,f,b,d,e,u,zip,mixed\n"
        "abc,1,1.5,true,2024-01-02,a@b.io,https://x.io/1,01234,1\n"
        "2x,-20,3,False,2024-01-02T10:00:00+02:00,c@d.org,http://y.io,99999,one\n"
        ",,,,,,,,\n",
    )
    assert properties(found) == [
        {"s": "abc", "i": 1, "f": 1.5, "b": True, "d": "2024-01-02T00:00:00Z", "e": "a@b.io",
         "u": "https://x.io/1", "zip": "01234", "mixed": "1"},
        {"s": "2x", "i": -20, "f": 3.0, "b": False, "d": "2024-01-02T08:00:00Z", "e": "c@d.org",
         "u": "http://y.io", "zip": "99999", "mixed": "one"},
        {},
    ]  # fmt: skip


async def test_a_value_past_the_sample_that_breaks_its_type_is_kept_as_text(tmp_path):
    lines = [f"{i}\n" for i in range(150)] + ["many\n"]
    found = await read(tmp_path, "n\n" + "".join(lines))
    assert properties(found)[-2:] == [{"n": 149}, {"n": "many"}]


@pytest.mark.requirement("CON-08")
async def test_rows_become_nodes_and_relationship_columns_become_edges(tmp_path):
    found = await read(
        tmp_path,
        "id,name,boss,team,team_no\n1,Ada,,Engines,e\n2,Bob,1,Engines,e\n3,Cy,2,,\n",
        id_column="id",
        column_mapping={"team_no": None, "boss": "boss_id"},
        relationship_columns=[
            {"column": "boss", "type": "REPORTS_TO", "label": "Row"},
            {"column": "team", "external_id": "team_no", "type": "IN", "label": "Team"},
        ],
    )
    nodes = {(r["labels"][0], r["external_id"]): r["name"] for r in found.rows("nodes")}
    assert nodes == {
        ("Row", "1"): "Ada", ("Row", "2"): "Bob", ("Row", "3"): "Cy", ("Team", "e"): "Engines",
    }  # fmt: skip
    edges = [
        (r["src_external_id"], r["type"], r["dst_label"], r["dst_external_id"])
        for r in found.rows("edges")
    ]
    assert edges == [
        ("1", "IN", "Team", "e"),
        ("2", "REPORTS_TO", "Row", "1"),
        ("2", "IN", "Team", "e"),
        ("3", "REPORTS_TO", "Row", "2"),
    ]
    rows = [row for row in found.rows("nodes") if row["labels"] == ["Row"]]
    assert orjson.loads(rows[1]["properties"]) == {
        "id": 2, "name": "Bob", "boss_id": 1, "team": "Engines",
    }  # fmt: skip


async def test_bad_lines_are_rejected_with_their_number_and_the_rest_goes_on(tmp_path):
    found = await read(
        tmp_path,
        b'# exported\nid,name\n1,one\n2\n3,three,more\n4,"fo"ur\n\n,nameless\n5,f\xffve\n'
        b'6,"six\nand more"\n7,seven\n8,"never closed\n9,nine\n',
        skip_rows=1,
        id_column="id",
    )
    assert [row["external_id"] for row in found.rows("nodes")] == ["1", "6", "7"]
    assert [(r.where, r.reason) for r in found.rejected] == [
        ("line 4", "it has 1 cells where there are 2 columns"),
        ("line 5", "it has 3 cells where there are 2 columns"),
        ("line 6", "',' expected after '\"'"),
        ("line 8", "its 'id' is empty"),
        ("line 9", "it is not utf-8 text"),
        ("line 13", "unexpected end of data"),
    ]


async def test_a_cell_that_never_ends_is_rejected_in_bounded_memory(tmp_path):
    found = await read(tmp_path, HEADER + '1,"' + "x" * 300_000 + "\n2,two\n", id_column="id")
    assert "field larger than field limit" in found.rejected[0].reason
    assert [row["external_id"] for row in found.rows("nodes")] == ["2"]


async def test_rows_without_an_id_column_keep_their_id_while_they_stay_equal(tmp_path):
    first = await read(tmp_path, HEADER + "1,one\n2,two\n")
    moved = await read(tmp_path, HEADER + "0,zero\n2,two\n1,one\n")
    ids = {row["name"]: row["external_id"] for row in first.rows("nodes")}
    assert ids.items() <= {row["name"]: row["external_id"] for row in moved.rows("nodes")}.items()


@pytest.mark.parametrize(
    ("encoding", "bom"), [("utf-8", b"\xef\xbb\xbf"), ("cp1252", b""), ("utf-16", b"")]
)
async def test_encodings_are_read_and_a_byte_order_mark_is_no_text(tmp_path, encoding, bom):
    data = bom + "id;näme\n1;Zoë\n".encode(encoding)
    found = await read(tmp_path, data, encoding=encoding, delimiter=";", id_column="id")
    assert properties(found) == [{"id": 1, "näme": "Zoë"}]


async def test_a_wrong_encoding_is_a_typed_fault_that_names_a_better_one(tmp_path):
    data = "id,name\n1,one\n".encode("utf-16")
    with pytest.raises(SourceConfigError, match="utf_16") as caught:
        await read(tmp_path, data, id_column="id")
    assert caught.value.details["kind"] == "config"


async def test_a_byte_order_mark_is_no_text_when_no_encoding_is_named(tmp_path):
    found = await read(tmp_path, b"\xef\xbb\xbfid,name\n1,one\n", id_column="id")
    assert properties(found) == [{"id": 1, "name": "one"}]


async def test_tabs_missing_headers_blank_and_repeated_names_are_understood(tmp_path):
    bare = await read(
        tmp_path, "1\tone\n2\ttwo\n", delimiter="\\t", has_header=False, id_column="column_1"
    )
    assert properties(bare) == [
        {"column_1": 1, "column_2": "one"}, {"column_1": 2, "column_2": "two"},
    ]  # fmt: skip
    odd = await read(tmp_path, "a,,a,a_2\n1,2,3,4\n")
    assert properties(odd) == [{"a": 1, "column_2": 2, "a_2": 3, "a_2_2": 4}]


@pytest.mark.parametrize("data", ["", "\n\n", HEADER])
async def test_a_file_without_rows_is_an_empty_extract(tmp_path, data):
    found = await read(tmp_path, data)
    assert found.batches == []
    assert found.cursors


async def test_max_rows_ends_the_reading(tmp_path):
    found = await read(tmp_path, HEADER + "1,a\n2,b\n3,c\n", max_rows=2)
    assert len(found.rows("nodes")) == 2


@pytest.mark.parametrize(
    ("config", "loc", "hint"),
    [
        ({"id_column": "idd"}, "id_column", "'id'"),
        ({"column_mapping": {"nme": "n"}}, "column_mapping", "'name'"),
        ({"relationship_columns": [{"column": "x", "type": "T", "label": "L"}]},
         "relationship_columns.column", "columns: id, name"),
    ],
)  # fmt: skip
async def test_a_column_that_the_file_lacks_is_named(tmp_path, config, loc, hint):
    (tmp_path / "t.csv").write_text(HEADER + "1,one\n")
    config = {"file_path": str(tmp_path / "t.csv"), "node_label": "Row", **config}
    session = await session_on(CsvConnector(), config, context(tmp_path))
    with pytest.raises(SourceConfigError, match=hint) as caught:
        await session.check()
    assert caught.value.details["errors"][0]["loc"] == loc


@pytest.mark.parametrize(
    ("config", "loc"),
    [
        ({"delimiter": "ab"}, "delimiter"),
        ({"encoding": "utf-99"}, "encoding"),
        ({"encoding": "rot13"}, "encoding"),
        ({"node_label": "No Spaces"}, "node_label"),
        ({"relationship_columns": [{"column": "a", "type": "lower", "label": "L"}]},
         "relationship_columns.0.type"),
        ({"url": "https://x.io/a.csv"}, ""),
    ],
)  # fmt: skip
def test_a_config_that_cannot_work_is_refused_field_by_field(tmp_path, config, loc):
    config = {"file_path": str(tmp_path / "t.csv"), "node_label": "Row", **config}
    with pytest.raises(SourceConfigError) as caught:
        CsvConnector().validate(config, context(tmp_path))
    assert [error["loc"] for error in caught.value.details["errors"]] == [loc]


async def test_a_changed_file_or_config_is_read_in_full_again(tmp_path):
    first = await read(tmp_path, HEADER + "1,one\n")
    same = await read(tmp_path, None, first.cursors)
    assert (same.mode.full, same.batches) == (False, [])
    other_config = await read(tmp_path, None, first.cursors, node_label="Line")
    assert other_config.mode.full
    changed = await read(tmp_path, HEADER + "1,uno\n", first.cursors)
    assert (changed.mode.full, changed.mode.note) == (True, "the file has changed")
    assert changed.rows("nodes")[0]["name"] == "uno"


async def test_a_large_file_comes_in_bounded_batches_with_progress(tmp_path):
    rows = "".join(f"{i},row {i},{i % 7}\n" for i in range(2 * BATCH_ROWS + 10))
    found = await read(
        tmp_path, "id,name,g\n" + rows, id_column="id",
        relationship_columns=[{"column": "g", "type": "IN", "label": "Group"}],
    )  # fmt: skip
    nodes = [batch for batch in found.batches if batch.kind == "nodes"]
    assert [batch.rows.num_rows for batch in nodes][:2] == [BATCH_ROWS, BATCH_ROWS]
    assert len(found.state("nodes")) == 2 * BATCH_ROWS + 10 + 7
    assert len(found.rows("edges")) == 2 * BATCH_ROWS + 10


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(
        st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=3, max_size=3),
        max_size=12,
    )
)
async def test_whatever_a_csv_writer_writes_comes_back(tmp_path, rows):
    text = io.StringIO()
    writer = stdlib_csv.writer(text, quoting=stdlib_csv.QUOTE_ALL)
    rows = [["some text"] * 3, *rows]  # so that every column is text
    writer.writerows([["a", "b", "c"], *rows])
    found = await read(tmp_path, text.getvalue())
    assert not any(isinstance(item, Rejected) for item in found.items)
    shown = [dict(zip("abc", map(str.strip, row), strict=True)) for row in rows]
    assert properties(found) == [
        {name: cell.replace("\x00", "\ufffd") for name, cell in row.items() if cell}
        for row in shown
    ]


async def test_a_file_that_vanishes_or_may_not_be_read_is_a_typed_fault(tmp_path):
    path = tmp_path / "gone.csv"
    config = {"file_path": str(path), "node_label": "Row"}
    session = await session_on(CsvConnector(), config, context(tmp_path))
    with pytest.raises(SourceConfigError) as caught:
        await session.check()
    assert caught.value.details["kind"] == "unreachable"
    path.mkdir()
    with pytest.raises(SourceConfigError, match="not a file"):
        await session.check()
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(SourceConfigError, match="not a file"):
        await session.check()
