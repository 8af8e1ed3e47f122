"""Packages: addressed rows, external sort, segments, chains, and reading them back."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.connectors.base import Batch
from agentcy_ray.core.batches import EDGES, SOURCE_EDGES, SOURCE_NODES, SOURCE_TOMBSTONES
from agentcy_ray.core.ids import edge_id, new_id, node_id
from agentcy_ray.ingest.addressing import PACKAGE_NODES, Addresser
from agentcy_ray.ingest.chains import surplus
from agentcy_ray.ingest.diff import Difference
from agentcy_ray.ingest.manifest import Manifest
from agentcy_ray.ingest.merge import aligned, rebatch
from agentcy_ray.ingest.packages import PackageFacts, PackageWriter, fold, localize, upload
from agentcy_ray.ingest.segments import write_segments
from agentcy_ray.ingest.spool import Spool
from agentcy_ray.ingest.state import Keys, Layer, State
from agentcy_ray.stores.objects import FolderObjects

ORG, SOURCE = new_id(), new_id()


def text_hash(labels: Any, name: str, properties: dict[str, Any]) -> str:
    return name


def addresser() -> Addresser:
    return Addresser(ORG, SOURCE, "memory", "development", text_hash)


def facts() -> PackageFacts:
    return PackageFacts(
        new_id(), ORG, SOURCE, "memory", "1", datetime(2026, 1, 1, tzinfo=UTC), {"s": {"at": 1}}
    )


def nodes(values: dict[str, Any]) -> Batch:
    return Batch(
        "nodes",
        pa.RecordBatch.from_pylist(
            [
                {"labels": ["Item"], "external_id": key, "properties": orjson.dumps(value).decode()}
                for key, value in values.items()
            ],
            schema=SOURCE_NODES,
        ),
    )


def gone(keys: list[str]) -> Batch:
    rows = [{"label": "Item", "external_id": key} for key in keys]
    return Batch("tombstones", pa.RecordBatch.from_pylist(rows, schema=SOURCE_TOMBSTONES))


def package(folder: Path, *batches: Batch, base: State | None = None) -> Layer:
    writer = PackageWriter(addresser(), folder / new_id().hex)
    for batch in batches:
        assert writer.add(batch) == ()
    return writer.seal(facts(), base)


def held(state: State) -> dict[str, Any]:
    return {
        row["external_id"]: orjson.loads(row["properties"])
        for table in state.stream("nodes", ["external_id", "properties"])
        for row in table.to_pylist()
    }


def test_ids_are_those_of_the_core_and_hashes_see_every_part():
    rows = addresser().nodes(nodes({"ü 1": {"b": 1, "a": 2}}).rows).rows.to_pylist()
    assert rows[0]["id"] == node_id(ORG, "development", SOURCE, "Item", "ü 1")
    assert (rows[0]["name"], rows[0]["properties"]) == ("ü 1", '{"a":2,"b":1}')
    edge = {
        "src_label": "Item", "src_external_id": "x", "type": "KNOWS", "dst_label": "Item",
        "dst_external_id": "y", "src_realm": "data", "dst_realm": None, "properties": "{}",
    }  # fmt: skip
    made = addresser().edges(pa.RecordBatch.from_pylist([edge], schema=SOURCE_EDGES)).rows
    row = made.to_pylist()[0]
    assert row["src"] == node_id(ORG, "data", SOURCE, "Item", "x")
    assert row["dst"] == node_id(ORG, "development", SOURCE, "Item", "y")
    assert row["id"] == edge_id(row["src"], "KNOWS", row["dst"], SOURCE)
    assert row["realm"] == "data", "an edge lies in the realm of its source"


def test_equal_content_in_another_order_has_an_equal_hash():
    one, two, three = (
        addresser().nodes(nodes({"k": value}).rows).rows["content_hash"][0].as_py()
        for value in ({"a": 1, "b": [1]}, {"b": [1], "a": 1}, {"a": 1, "b": [2]})
    )
    assert one == two != three


@pytest.mark.parametrize(
    ("labels", "external", "properties", "realm"),
    [([], "x", "{}", None), (["A"], "", "{}", None), (["A"], "x", "[1]", None),
     (["A"], "x", "{", None), (["A"], "x", "{}", "No Realm")],
)  # fmt: skip
def test_a_row_that_cannot_be_addressed_is_put_aside_alone(labels, external, properties, realm):
    row = {"labels": labels, "external_id": external, "properties": properties, "realm": realm}
    good = {"labels": ["A"], "external_id": "good", "properties": "{}"}
    batch = pa.RecordBatch.from_pylist([row, good], schema=SOURCE_NODES)
    made = addresser().nodes(batch)
    assert made.rows.num_rows == 1
    assert len(made.rejected) == 1
    assert made.rejected[0].reason


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.integers(), st.booleans()), max_size=200),
    limit=st.sampled_from([1, 2_000, 1_000_000]),
)
def test_a_spool_sorts_and_the_last_row_of_a_key_wins(tmp_path_factory, rows, limit):
    schema = pa.schema([pa.field("id", pa.string()), pa.field("v", pa.int64())])
    spool = Spool(schema, "id", tmp_path_factory.mktemp("spool"), buffer_bytes=limit)
    model: dict[str, int | None] = {}
    for key, value, removed in rows:
        name = f"{key:028}"
        if removed:
            spool.remove(pa.array([name]))
        else:
            spool.add(pa.table({"id": [name], "v": [value % 1000]}, schema=schema))
        model[name] = None if removed else value % 1000
    found = [row for table in spool.sorted() for row in table.to_pylist()]
    assert [row["id"] for row in found] == sorted(model)
    assert {row["id"]: None if row["_gone"] else row["v"] for row in found} == model
    assert spool.duplicates == len(rows) - len(model)


def test_windows_hold_all_rows_of_a_key_range():
    def tables(keys: list[int], size: int):
        for at in range(0, len(keys), size):
            yield pa.table({"id": [f"{key:03}" for key in keys[at : at + size]]})

    left, right = list(range(0, 100, 2)), list(range(0, 100, 3))
    seen: list[tuple[set[str], set[str]]] = []
    for window in aligned([tables(left, 7), tables(right, 4)], "id"):
        seen.append(tuple(set() if t is None else set(t["id"].to_pylist()) for t in window))
    assert set().union(*(one for one, _ in seen)) == {f"{key:03}" for key in left}
    assert sum(len(one & two) for one, two in seen) == len(set(left) & set(right))


def test_a_large_package_has_bounded_groups_and_segments_in_key_order(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("agentcy_ray.ingest.segments.SEGMENT_BYTES", 400_000)
    monkeypatch.setattr("agentcy_ray.ingest.segments.GROUP_BYTES", 100_000)
    values = {f"k{n}": {"n": n, "text": "x" * 300} for n in range(9_000)}
    layer = package(tmp_path, nodes(values))
    segments = [s for s in layer.manifest.segments if s.kind == "nodes"]
    assert len(segments) > 3
    last = ""
    for segment in segments:
        with pq.ParquetFile(layer.files[segment.path]) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"])["id"].to_pylist()
                assert ids == sorted(ids)
                assert ids[0] > last
                last = ids[-1]
    assert held(State([layer])) == values


async def test_a_package_survives_the_store_and_says_when_it_is_damaged(tmp_path: Path):
    objects = FolderObjects(tmp_path / "objects")
    layer = package(tmp_path, nodes({"a": {"v": 1}}))
    await upload(objects, layer)
    stored = Manifest(**orjson.loads(await objects.get(layer.manifest.prefix + "manifest.json")))
    assert stored == layer.manifest
    assert stored.digest == stored.model_copy(update={"digest": ""}).sealed().digest
    again = await localize(objects, stored, tmp_path / "cache")
    assert held(State([again])) == {"a": {"v": 1}}


class Remote(FolderObjects):
    """A folder that behaves like a bucket: its files cannot be reached by path."""

    def local_path(self, key: str) -> None:
        return None


async def test_segments_of_a_bucket_are_fetched_once_into_the_cache(tmp_path: Path):
    objects = Remote(tmp_path / "objects")
    layer = package(tmp_path, nodes({"a": {"v": 1}}))
    await upload(objects, layer)
    first = await localize(objects, layer.manifest, tmp_path / "cache")
    for key in await objects.list():
        await objects.delete(key)
    second = await localize(objects, layer.manifest, tmp_path / "cache")
    assert first.files == second.files
    assert held(State([second])) == {"a": {"v": 1}}


changes = st.dictionaries(
    st.integers(0, 25).map(str), st.one_of(st.none(), st.integers(0, 3)), max_size=12
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=changes, deltas=st.lists(changes, max_size=4))
def test_a_chain_a_fold_and_a_difference_agree_with_a_dict(tmp_path_factory, first, deltas):
    folder = tmp_path_factory.mktemp("chain")
    model = {key: {"v": value} for key, value in first.items() if value is not None}
    layers = [package(folder, nodes(model))]
    for delta in deltas:
        before, old = State(layers), dict(model)
        written = {key: {"v": value} for key, value in delta.items() if value is not None}
        removed = [key for key, value in delta.items() if value is None]
        layers = [*layers, package(folder, nodes(written), gone(removed), base=before)]
        model = {key: v for key, v in (model | written).items() if key not in removed}
        assert held(State(layers)) == model
        counts = Difference(before, State(layers)).counts("nodes")
        assert counts.added == len(model.keys() - old.keys())
        assert counts.archived == len(old.keys() - model.keys())
        assert counts.updated == sum(old[k] != model[k] for k in old.keys() & model.keys())
    folded = State([fold(State(layers), facts(), folder / "folded")])
    assert held(folded) == model
    assert Difference(State(layers), folded).counts("nodes").moved == 0


def test_a_narrow_read_skips_row_groups_that_cannot_hold_its_keys(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("agentcy_ray.ingest.segments.GROUP_ROWS", 50)
    layer = package(tmp_path, nodes({f"k{n}": {"n": n} for n in range(2_000)}))
    wanted = node_id(ORG, "development", SOURCE, "Item", "k7")
    read: list[int] = []
    real = pq.ParquetFile.read_row_group

    def counted(self, group, **how):
        read.append(group)
        return real(self, group, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    keys = Keys([pa.array([wanted])])
    found = list(State([layer]).stream("nodes", ["external_id"], within=keys))
    assert [table.to_pylist() for table in found] == [[{"id": wanted, "external_id": "k7"}]]
    assert len(read) == 1


def test_key_sets_answer_for_many_keys_at_once():
    names = [f"n_{n:026}" for n in range(1000)]
    random.Random(1).shuffle(names)
    keys = Keys([pa.array(names[:300]), pa.chunked_array([names[300:500]])])
    assert len(keys) == 500
    assert keys.mask(pa.array(names)).to_pylist() == [True] * 500 + [False] * 500
    assert Keys().mask(pa.array(names[:2])).to_pylist() == [False, False]
    assert len(keys.joined(Keys([pa.array(names)]))) == 1000


def test_rebatching_keeps_every_row_within_both_bounds():
    tables = (pa.table({"id": [f"{n}-{i}" for i in range(n)]}) for n in (1, 700, 3, 2_500))
    made = list(rebatch(tables, 1000, 10_000))
    assert sum(table.num_rows for table in made) == 3_204
    assert max(table.num_rows for table in made) <= 1000
    assert max(table.nbytes for table in made) <= 12_000


def test_segments_of_no_rows_are_none(tmp_path: Path):
    empty = iter([PACKAGE_NODES.empty_table()])
    assert write_segments("nodes", empty, tmp_path) == []
    assert write_segments("edges", iter([EDGES.empty_table()]), tmp_path) == []


def test_only_packages_that_nothing_needs_are_surplus():
    def row(name: int, state: str, base: int | None, published: int | None) -> dict[str, Any]:
        at = None if published is None else datetime(2026, 1, published, tzinfo=UTC)
        return {
            "id": UUID(int=name), "state": state, "published_at": at,
            "base_id": None if base is None else UUID(int=base),
        }  # fmt: skip

    rows = [
        row(1, "full", None, 1), row(2, "delta", 1, 2), row(3, "full", None, 3),
        row(4, "delta", 3, 4), row(5, "full", None, 5), row(6, "delta", 4, None),
    ]  # fmt: skip

    def left(current: int, *dirty: int, keep: int) -> list[int]:
        found = surplus(
            rows, current=UUID(int=current), dirty=[UUID(int=n) for n in dirty], keep=keep
        )
        return [each.int for each in found]

    assert left(5, keep=3) == [6]
    assert left(5, keep=1) == [2, 4, 6, 1, 3]
    assert left(2, keep=1) == [4, 6, 3], "the current chain stays, however old"
    assert left(5, 6, keep=1) == [2, 1], "so does what was half published"
