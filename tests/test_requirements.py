"""Every id of ``requirements.toml`` has a test that names it, and the other way round."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from tests.trees import parsed

TESTS = Path(__file__).parent


def claimed() -> dict[str, list[str]]:
    """Requirement id → the test functions that are marked with it."""
    found: dict[str, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for requirement in _marks(node):
                    found.setdefault(requirement, []).append(f"{path.name}::{node.name}")
    return found


def _marks(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[str]:
    ids: list[str] = []
    for decorator in node.decorator_list:
        call = isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute)
        if call and decorator.func.attr == "requirement":
            ids += [arg.value for arg in decorator.args if isinstance(arg, ast.Constant)]
    return ids


def listed() -> dict[str, str]:
    """Requirement id → its sentence."""
    document = tomllib.loads((TESTS / "requirements.toml").read_text())
    return {entry["id"]: entry["text"] for entry in document["requirement"]}


def test_every_listed_requirement_is_claimed_by_a_test() -> None:
    missing = sorted(set(listed()) - set(claimed()))
    assert not missing, f"no test names {missing}"


def test_no_test_claims_a_requirement_that_is_not_listed() -> None:
    tests = claimed()
    unknown = {requirement: tests[requirement] for requirement in set(tests) - set(listed())}
    assert not unknown, f"requirements.toml lacks {unknown}"


def test_every_requirement_is_one_sentence() -> None:
    for requirement, text in listed().items():
        assert text.endswith("."), f"{requirement} does not end as a sentence"
