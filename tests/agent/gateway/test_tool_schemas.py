from typing import Any

import pytest

from agentcy_ray.agent.tool_schemas import ArgumentChecks
from agentcy_ray.core.errors import ConnectorError, ToolArgumentsError
from agentcy_ray.core.tools import Effect, ToolSpec

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100},
        "order": {"enum": ["newest", "oldest"]},
        "password": {"type": "string"},
        "filter": {
            "type": "object",
            "properties": {"author": {"type": "string"}},
            "required": ["author"],
            "additionalProperties": False,
        },
        "labels": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["path"],
    "additionalProperties": False,
}


def spec(schema: dict[str, Any] = SCHEMA) -> ToolSpec:
    return ToolSpec(name="log", title="", description="", input_schema=schema, effect=Effect.READ)


def refused(args: dict[str, Any]) -> ToolArgumentsError:
    with pytest.raises(ToolArgumentsError) as caught:
        ArgumentChecks().check("git.log", spec(), args)
    return caught.value


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        ({}, {"loc": "path", "expected": "string"}),
        ({"path": 3}, {"loc": "path", "expected": "string", "got": "integer 3"}),
        ({"path": "a", "limit": 0}, {"loc": "limit", "expected": "at least 1", "got": "integer 0"}),
        ({"path": "a", "limit": 900}, {"loc": "limit", "expected": "at most 100"}),
        (
            {"path": "a", "order": "new"},
            {"loc": "order", "expected": 'one of ["newest","oldest"]', "got": 'string "new"'},
        ),
        ({"path": "a", "lables": []}, {"loc": "lables", "nearest": "labels"}),
        ({"path": "a", "filter": {"author": "m", "autor": 1}},
         {"loc": "filter.autor", "nearest": "author"}),
        ({"path": "a", "filter": {}}, {"loc": "filter.author", "expected": "string"}),
        ({"path": "a", "labels": ["x", None]}, {"loc": "labels.1", "got": "null"}),
        ({"path": "a", "password": 12345678}, {"loc": "password", "got": "integer"}),
    ],
)  # fmt: skip
def test_a_refusal_tells_path_expected_got_and_the_nearest_name(args, fault):
    (told,) = refused(args).details["errors"]
    assert {name: told[name] for name in fault} == fault


def test_every_fault_is_told_at_once_and_the_message_names_what_the_tool_takes():
    error = refused({"pth": "a", "limit": "3", "order": 1})
    assert {fault["loc"] for fault in error.details["errors"]} == {"pth", "limit", "order", "path"}
    assert "pth: is not an argument; did you mean 'path'?" in error.message
    assert 'limit: expected integer, got string "3"' in error.message
    assert "It takes: path (required), limit, order" in error.message


def test_long_values_and_many_faults_are_cut():
    error = refused({"path": ["x" * 10_000], **{f"k{n}": n for n in range(50)}})
    assert len(error.message) < 1200
    assert "and 46 more" in error.message


def test_a_schema_that_is_none_is_the_authors_fault():
    with pytest.raises(ConnectorError, match="author of the connector"):
        ArgumentChecks().check("git.log", spec({"type": 3}), {})


def test_a_validator_is_compiled_once_for_each_declaration():
    checks, same, other = ArgumentChecks(), spec(), spec({"type": "object", "required": ["x"]})
    checks.check("git.log", same, {"path": "a"})
    checks.check("git.log", same, {"path": "b"})
    checks.check("git.show", other, {"x": 1})
    assert len(checks._compiled) == 2
