"""Every test that docs/security.md names is there; so is every setting, command and page."""

from __future__ import annotations

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.trees import parsed

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE)))


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_page_names_is_there(named: str) -> None:
    path, _, name = named.partition("::")
    tree = parsed(ROOT / path)
    functions = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions if name else any(each.startswith("test_") for each in functions)


def test_both_lists_are_whole() -> None:
    for prefix, rows in (("LLM", 10), ("ASI", 10)):
        found = re.findall(rf"^\| {prefix}(\d\d) .*`tests/", PAGE, re.MULTILINE)
        assert found == [f"{n:02}" for n in range(1, rows + 1)], prefix


def test_each_risk_names_single_tests() -> None:
    for row in re.findall(r"^\| (?:LLM|ASI)\d\d .*", PAGE, re.MULTILINE):
        assert all("::" in named for named in re.findall(r"`(tests/[^`]+)`", row)), row


def test_every_library_has_one_version() -> None:
    """All that the product needs, and what that needs, as ``constraints.txt`` has it."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", line) for line in lines if line[:1] != "#"]
    assert all(pins)
    versions = {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}
    assert len(versions) == len(pins)
    waiting, seen = [("agentcy-ray", "")], set[tuple[str, str]]()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                below = canonicalize_name(needed.name)
                assert below in {*versions, "setuptools"}, (name, below)  # it came with Python
                waiting += [(below, each) for each in ("", *needed.extras)]


def test_every_file_with_a_table_of_attacks_is_named() -> None:
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^(pytestmark = |@)\[?pytest\.mark\.attack", path.read_text(), re.MULTILINE)
    }
    assert marked - {named.partition("::")[0] for named in NAMED} == set()


def test_settings_and_pages_that_it_names_are_there() -> None:
    settings = (ROOT / "agentcy_ray/core/settings.py").read_text()
    settings += (ROOT / "agentcy_ray/core/access_settings.py").read_text()
    for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=\w+)?`", PAGE):
        assert name.lower() in settings, name
    for page in re.findall(r"`(\w+\.md)`", PAGE):
        assert (ROOT / "docs" / page).exists(), page
