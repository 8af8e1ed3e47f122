"""``agentcy policy test``: Rego tests without a server."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from agentcy_ray.cli.policy import app
from agentcy_ray.core.errors import ConfigError, PolicyInvalidError

POLICY = """package agentcy.mine
import rego.v1
deny contains "stopped" if input.action in data.settings.stopped
"""
TESTS = """package agentcy.mine_test
import rego.v1
import data.agentcy.mine
test_stops if count(mine.deny) == 1 with input as {"action": "task.run"}
test_lets_others_pass if count(mine.deny) == 0 with input as {"action": "task.read"}
"""
SETTINGS = {"stopped": ["task.run"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.rego").write_text(POLICY)
    (tmp_path / "mine_test.rego").write_text(TESTS)
    (tmp_path / "settings.json").write_bytes(orjson.dumps(SETTINGS))
    return tmp_path


def test_the_tests_of_a_folder_pass(folder: Path) -> None:
    settings = str(folder / "settings.json")
    done = CliRunner().invoke(app, ["test", str(folder), "--settings", settings, "--json"])
    assert done.exit_code == 0, done.output
    assert [row["name"] for row in orjson.loads(done.stdout)] == [
        "data.agentcy.mine_test.test_lets_others_pass",
        "data.agentcy.mine_test.test_stops",
    ]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("test_never if false", "is undefined"),
        ("test_number := 7", "is 7"),
        ("test_fault if 1 / count([]) > 0", "divide by zero"),
    ],
)
def test_a_test_that_is_not_true_fails_and_says_why(folder: Path, rule: str, says: str) -> None:
    (folder / "more_test.rego").write_text(f"package agentcy.more_test\nimport rego.v1\n{rule}")
    done = CliRunner().invoke(app, ["test", str(folder / "more_test.rego"), "--json"])
    assert done.exit_code == 1
    (outcome,) = orjson.loads(done.stdout)
    assert not outcome["passed"]
    assert says in outcome["problem"]


def test_a_file_that_does_not_compile_is_named(folder: Path) -> None:
    (folder / "bad.rego").write_text("package agentcy.bad\ndeny contains if")
    done = CliRunner().invoke(app, ["test", str(folder)])
    assert isinstance(done.exception, PolicyInvalidError)
    assert done.exception.details["policy"].endswith("bad.rego")


def test_files_without_tests_are_no_success(folder: Path) -> None:
    done = CliRunner().invoke(app, ["test", str(folder / "mine.rego")])
    assert isinstance(done.exception, ConfigError)
