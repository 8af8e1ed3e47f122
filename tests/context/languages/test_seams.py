"""Facts, current state and the decoding of answers: what the languages are planned upon."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from datafusion import SessionContext
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import Expr, exp

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages import current, facts, planned
from agentcy_ray.core.errors import InvalidError

NODE_FIELDS = (
    "id", "labels", "label_set", "name", "realm", "source_id", "connector", "external_id", "facts",
    "first_seen", "last_seen", "archived_at", "content_hash", "version", "op",
)  # fmt: skip
EDGE_FIELDS = (
    "id", "src", "dst", "type", "realm", "source_id", "facts", "first_seen", "last_seen",
    "archived_at", "content_hash", "version", "op",
)  # fmt: skip


def _rows(names: tuple[str, ...], rows: list[dict[str, Any]]) -> pa.RecordBatch:
    columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    columns["props"] = pa.array([row.get("props", b"{}") for row in rows], pa.binary())
    return pa.RecordBatch.from_pydict(columns)


def _node(id_: str, version: int, op: str = "upsert", **more: Any) -> dict[str, Any]:
    stamp = f"2026-03-0{version}T00:00:00.000000Z"
    return {
        "id": id_, "version": f"{version:020}", "op": op, "realm": "dev", "name": f"{id_}{version}",
        "first_seen": stamp, "last_seen": stamp, "archived_at": stamp if op == "archive" else "",
    } | more  # fmt: skip


def _engine(nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> SessionContext:
    context = SessionContext()
    context.register_record_batches("context_nodes", [[_rows(NODE_FIELDS, nodes)]])
    context.register_record_batches("context_edges", [[_rows(EDGE_FIELDS, edges)]])
    return context


def _ask(context: SessionContext, ctes: list[exp.CTE], text: str) -> list[dict[str, Any]]:
    head = ", ".join(planned.to_sql(cte) for cte in ctes)
    return context.sql(f"WITH {head} {text}").to_arrow_table().to_pylist()


def _read(text: str, value: Expr) -> Any:
    context = SessionContext()
    batch = pa.RecordBatch.from_pydict({"facts": facts.encode(pa.array([text]))})
    context.register_record_batches("t", [[batch]])
    sql = f"SELECT {planned.to_sql(value)} AS v FROM t"
    return context.sql(sql).to_arrow_table().to_pylist()[0]["v"]


def _at(*keys: str) -> Expr:
    return facts.tagged(current.column("facts"), facts.path(*keys))


def test_sql_reads_properties_of_every_type_by_their_path() -> None:
    text = json.dumps({
        "s": "x", "i": 3, "f": 2.5, "t": True, "none": None, "p": "short", "a": {"p": 1, "b.c": 2},
        "tags": ["a", "b"], "mixed": ["a", 1], "b.c": "dotted", "huge": 2**63, "ctl": "a\u001fb",
    })  # fmt: skip

    assert _read(text, facts.as_text(_at("s"))) == "x"
    assert _read(text, facts.as_number(_at("f"))) == 2.5
    assert _read(text, facts.as_integer(_at("i"))) == 3
    assert _read(text, facts.as_boolean(_at("t"))) is True
    assert _read(text, facts.as_text(_at("none"))) is None
    assert _read(text, facts.as_number(_at("s"))) is None
    assert _read(text, facts.as_text(_at("p"))) == "short"
    assert _read(text, facts.as_number(_at("a", "p"))) == 1
    assert _read(text, facts.as_number(_at("a", "b.c"))) == 2
    assert _read(text, facts.as_text(_at("b.c"))) == "dotted"
    assert _read(text, facts.as_items(_at("tags"))) == ["sa", "sb"]
    assert _read(text, facts.as_items(_at("mixed"))) == ["sa", "n1"]
    assert _read(text, _at("a")) == 'm{"p":1,"b.c":2}'
    assert _read(text, _at("huge")) == f"m{2**63}"
    assert _read(text, facts.as_text(_at("ctl"))) == "a b"


def test_what_is_no_object_is_no_properties() -> None:
    for text in ("[1]", "nonsense"):
        with pytest.raises(InvalidError):
            facts.encode(pa.array([text]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x1c\x1d\x1e\x1f", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


@given(value=VALUES)
def test_a_tagged_value_comes_back_as_it_went_in(value: Any) -> None:
    found = facts.encode(pa.array([json.dumps({"k": value})]))[0].as_py()
    if value is None:
        assert found == "\x1f"
        return
    tagged = found.split("\x1fk\x1e", 1)[1].split("\x1f", 1)[0]
    assert planned.value(tagged) == value
    assert planned.value("l" + planned.escape("l" + planned.escape(tagged))) == [[value]]


def test_each_entity_is_there_once_at_its_newest_version() -> None:
    nodes = [_node("a", 1), _node("a", 2), _node("a", 2), _node("b", 1), _node("b", 2, "archive"),
             _node("c", 1, realm="crm")]  # fmt: skip
    context = _engine(nodes, [])
    org = uuid4()

    def names(**how: Any) -> list[tuple[str, str]]:
        scope = how.pop("scope", Scope(org_id=org))
        found = _ask(context, current.relations(["context_nodes"], scope, **how),
                     "SELECT name, first_seen FROM _nodes ORDER BY name")  # fmt: skip
        return [(row["name"], str(row["first_seen"])[:10]) for row in found]

    assert names() == [("a2", "2026-03-01"), ("c1", "2026-03-01")]
    assert names(scope=Scope(org_id=org, realms=("dev",))) == [("a2", "2026-03-01")]
    assert names(scope=Scope(org_id=org, realms=())) == []
    assert [name for name, _ in names(include_archived=True)] == ["a2", "b2", "c1"]
    one = exp.EQ(this=current.column("id"), expression=exp.Literal.string("c"))
    assert names(pushed={"context_nodes": [one]}) == [("c1", "2026-03-01")]


@pytest.mark.parametrize("include_archived", [False, True])
def test_a_few_columns_are_found_as_all_of_them_are(include_archived: bool) -> None:
    ops = ("archive", "purge", "upsert")
    histories = [(a, b, same) for a in ops for b in ops for same in (False, True)]
    nodes = [
        _node(f"{a}/{b}/{same}", version, op)
        for a, b, same in histories
        for op, version in ((a, 1), (b, 1 if same else 2))
    ]
    context, scope = _engine(nodes, []), Scope(org_id=uuid4())

    def rows(narrow: dict[current.Table, tuple[str, ...]] | None) -> list[dict[str, Any]]:
        ctes = current.relations(["context_nodes"], scope, include_archived=include_archived,
                                 narrow=narrow)  # fmt: skip
        return _ask(context, ctes, "SELECT id, realm, name FROM _nodes ORDER BY id")

    few = rows({"context_nodes": ("id", "realm", "name")})
    assert few == rows(None)
    assert len(few) == (12 if include_archived else 8)


def test_an_edge_shows_when_both_its_ends_do() -> None:
    nodes = [_node("a", 1), _node("b", 1), _node("c", 1), _node("c", 2, "archive"),
             _node("d", 1, realm="crm")]  # fmt: skip
    edges = [_node(f"a{dst}", 1, src="a", dst=dst, type="R") for dst in "bcd"]
    context = _engine(nodes, edges)
    scope = Scope(org_id=uuid4(), realms=("dev",))

    def shown(**how: Any) -> list[str]:
        ctes = current.relations(["context_edges"], scope, **how)
        return [row["id"] for row in _ask(context, ctes, "SELECT id FROM _edges ORDER BY id")]

    assert shown() == ["ab"]
    assert shown(include_archived=True) == ["ab", "ac"]
    assert shown(ends=False) == ["ab", "ac", "ad"]


def test_an_answer_is_decoded_and_typed_by_its_values() -> None:
    node = "N" + planned.FIELD.join(
        ["1", "\x1fA\x1fB\x1f", "dev", "n", "demo", "s", "e", "2026-03-01T00:00:00.000000Z", "",
         "", "h", "\x1f", '{"k":[1,null],"gone":null}'])  # fmt: skip
    columns = [("n", "node"), ("v", "any"), ("i", "integer"), ("m", "any"), ("at", "timestamp")]
    asked = planned.Planned(
        "…", tuple(planned.OutputColumn(name, kind) for name, kind in columns)
    )  # fmt: skip
    rows = {
        "c0": [node, None], "c1": ["n1", "n2.5"], "c2": [7, None], "c3": ["sx", "btrue"],
        "c4": [0, None],
    }  # fmt: skip
    table = pa.Table.from_pydict(rows).cast(asked.schema)

    found = planned.decode(table, asked)

    assert found[0][0]["labels"] == ["A", "B"]
    assert found[0][0]["properties"] == {"k": [1, None]}
    assert "archived_at" not in found[0][0]
    assert found[0][1:] == (1, 7, "x", "1970-01-01T00:00:00.000000Z")
    assert found[1] == (None, 2.5, None, True, None)
    assert planned.column_types(table, asked) == ("node", "double", "int64", "any", "string")
    arrow = planned.to_arrow(table.to_batches()[0], asked)
    assert json.loads(arrow.column("n")[0].as_py())["id"] == "1"
    assert arrow.column("i").to_pylist() == [7, None]
