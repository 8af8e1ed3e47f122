"""Every shipped connector passes these."""

from __future__ import annotations

import re

import jsonschema_rs
import orjson
import pytest

from agentcy_ray.connectors.base import BATCH_BYTES, BATCH_ROWS, Mode
from agentcy_ray.connectors.records import json_object
from agentcy_ray.connectors.registry import BUILT_INS, DEMO
from agentcy_ray.core.batches import SOURCE_SCHEMAS
from agentcy_ray.core.errors import AgentcyError, SourceConfigError
from agentcy_ray.core.tools import Effect
from tests.conformance.connector_suite import (
    SPECIFIED,
    ConnectorCase,
    Opened,
    all_cases,
    open_case,
)

NAME = re.compile(r"[a-z][a-z0-9_]*")
EDGE_TYPE = re.compile(r"[A-Z][A-Z0-9_]*")


@pytest.fixture(params=all_cases(), ids=lambda case: case.id)
def case(request) -> ConnectorCase:
    return request.param


@pytest.fixture
async def opened(case, tmp_path):
    found = await open_case(case, tmp_path)
    yield found
    await found.session.close()


@pytest.mark.requirement("CON-01")
def test_every_shipped_connector_has_cases_that_offer_the_specified_tools():
    offered: dict[str, dict[str, Effect]] = {}
    for case in all_cases():
        offered.setdefault(case.connector().spec.name, {}).update(case.effects)
    assert offered == SPECIFIED
    assert set(offered) == {*BUILT_INS, *DEMO}


@pytest.mark.requirement("CON-01")
def test_the_config_model_draws_a_closed_form(case):
    spec = case.connector().spec
    assert NAME.fullmatch(spec.name)
    assert spec.title
    assert spec.description
    schema = spec.config_model.model_json_schema()
    jsonschema_rs.meta.validate(schema)
    assert schema["additionalProperties"] is False
    assert all(field.description for field in spec.config_model.model_fields.values())


def test_an_unknown_config_field_is_named_with_the_nearest_known_one(opened: Opened):
    known = next(iter(opened.connector.spec.config_model.model_fields))
    config = {**opened.prepared.config, f"{known}x": 1}
    with pytest.raises(SourceConfigError) as caught:
        opened.connector.validate(config, opened.context)
    assert caught.value.details["kind"] == "config"
    assert [error["loc"] for error in caught.value.details["errors"]] == [f"{known}x"]
    assert f"'{known}'" in caught.value.details["errors"][0]["message"]


def test_a_wrong_type_in_any_field_is_a_typed_fault(opened: Opened):
    for name in opened.prepared.config:
        with pytest.raises(SourceConfigError) as caught:
            opened.connector.validate({**opened.prepared.config, name: object()}, opened.context)
        assert caught.value.details["kind"] == "config"
        assert any(e["loc"].startswith(name) for e in caught.value.details["errors"])


@pytest.mark.requirement("CON-01")
def test_every_tool_has_the_effect_that_the_specification_gives_it(opened: Opened):
    tools = opened.connector.tools(opened.config)
    assert {tool.name: tool.effect for tool in tools} == dict(opened.case.effects)
    assert len({tool.name for tool in tools}) == len(tools)


def test_every_tool_takes_a_closed_object(opened: Opened):
    for tool in opened.connector.tools(opened.config):
        assert NAME.fullmatch(tool.name)
        assert tool.title
        assert len(tool.description) >= 20
        jsonschema_rs.meta.validate(tool.input_schema)
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert set(tool.input_schema.get("required", [])) <= set(tool.input_schema["properties"])
        for name, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), f"{tool.name}.{name} says what it is"


async def test_a_reachable_source_checks_out(opened: Opened):
    await opened.session.check()


async def test_read_tools_answer_with_json(opened: Opened):
    schemas = {t.name: t for t in opened.connector.tools(opened.config)}
    for tool, args in opened.prepared.reads:
        assert schemas[tool].effect is Effect.READ
        jsonschema_rs.validate(schemas[tool].input_schema, dict(args))
        orjson.dumps(await opened.session.call(tool, args))


async def test_a_tool_that_is_not_offered_is_a_typed_error(opened: Opened):
    with pytest.raises(AgentcyError):
        await opened.session.call("no_such_tool", {})


@pytest.mark.requirement("CON-01")
async def test_an_extract_starts_with_its_mode_and_a_full_one_is_full(opened: Opened):
    extract = await opened.extract(full=True)
    assert extract.mode.full
    assert sum(isinstance(item, Mode) for item in extract.items) == 1


async def test_an_incremental_extract_without_cursors_is_a_full_one(opened: Opened):
    assert (await opened.extract({}, full=False)).mode.full


@pytest.mark.requirement("CON-01")
async def test_batches_keep_their_schemas_and_bounds(opened: Opened):
    extract = await opened.extract()
    assert extract.rows("nodes"), "the case's source holds something"
    for batch in extract.batches:
        assert batch.rows.schema == SOURCE_SCHEMAS[batch.kind]
        batch.rows.validate(full=True)
        assert 1 <= batch.rows.num_rows <= BATCH_ROWS
        assert batch.rows.num_rows == 1 or batch.rows.nbytes <= BATCH_BYTES * 1.1
        for field in batch.rows.schema:
            assert field.nullable or batch.rows.column(field.name).null_count == 0


async def test_rows_say_what_the_spec_announces(opened: Opened):
    spec = opened.connector.spec
    extract = await opened.extract()
    nodes, edges = extract.rows("nodes"), extract.rows("edges")
    for row in nodes:
        assert row["labels"]
        assert row["external_id"]
        assert not spec.labels or row["labels"][0] in spec.labels
    for row in edges:
        assert EDGE_TYPE.fullmatch(row["type"])
        assert not spec.edge_types or row["type"] in spec.edge_types
    for row in (*nodes, *edges):
        assert json_object(orjson.loads(row["properties"])) == row["properties"]


async def test_edges_and_documents_belong_to_nodes_of_the_same_extract(opened: Opened):
    extract = await opened.extract()
    nodes = {(r["realm"], r["labels"][0], r["external_id"]) for r in extract.rows("nodes")}
    for row in extract.rows("edges"):
        assert (row["src_realm"], row["src_label"], row["src_external_id"]) in nodes
        assert (row["dst_realm"], row["dst_label"], row["dst_external_id"]) in nodes
    for row in extract.rows("documents"):
        assert (row["realm"], row["label"], row["external_id"]) in nodes
        assert row["text"].strip()


@pytest.mark.requirement("CON-01")
async def test_two_full_extracts_of_an_unchanged_source_are_equal(opened: Opened):
    first, second = await opened.extract(), await opened.extract()
    for kind in ("nodes", "edges", "documents"):
        assert first.state(kind) == second.state(kind)


@pytest.mark.requirement("CON-01")
async def test_an_incremental_extract_of_an_unchanged_source_yields_no_rows(opened: Opened):
    if not opened.connector.spec.incremental:
        pytest.skip("reads in full each time")
    first = await opened.extract()
    again = await opened.extract(first.cursors, full=False)
    assert not again.mode.full
    assert again.batches == []


async def test_an_extract_that_is_left_early_leaves_the_session_usable(opened: Opened):
    stream = opened.session.extract({}, full=True)
    await anext(stream)
    await stream.aclose()
    assert (await opened.extract()).rows("nodes")


async def test_a_session_closes_twice_without_harm(opened: Opened):
    await opened.extract()
    await opened.session.close()
    await opened.session.close()
