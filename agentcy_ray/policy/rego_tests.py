"""Running the ``test_`` rules of policies, as OPA does, without a server.

A test is a rule whose name begins with ``test_``. It passes when it is true, and fails when it is
undefined, anything else, or ends in an error. ``with input as …`` puts the question.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from agentcy_ray.policy.engine import PolicyText, compile_policies
from agentcy_ray.policy.modules import Engine, Module, explain, parse
from agentcy_ray.policy.references import Definitions, Path

PREFIX = "test_"


class TestOutcome(BaseModel):
    """What became of one test."""

    __test__ = False
    model_config = ConfigDict(frozen=True)

    name: str
    """``data.agentcy.mine_test.test_owner``."""
    passed: bool
    problem: str | None = None
    took_ms: float


def run_tests(texts: Mapping[str, str], settings: Mapping[str, Any]) -> list[TestOutcome]:
    """Run every test of a set of policies.

    Args:
        texts: file name → Rego; the policies and their tests.
        settings: what they read as ``data.settings``.

    Raises:
        PolicyInvalidError: a file cannot be used; ``details`` hold policy, line and column.
    """
    files = sorted(texts.items())
    compile_policies([PolicyText(name, name, text) for name, text in files], settings, math.inf)
    modules = [parse(name, name, text) for name, text in files]
    return [_run(modules, settings, path) for path in _tests(modules)]


def _tests(modules: Sequence[Module]) -> list[Path]:
    found = Definitions([(module.tree, module.text) for module in modules]).rules(())
    return sorted({each.path for each in found if each.path[-1].startswith(PREFIX)})


def _run(modules: Sequence[Module], settings: Mapping[str, Any], path: Path) -> TestOutcome:
    name = ".".join(("data", *path))
    query = "data" + "".join(f"[{orjson.dumps(part).decode()}]" for part in path)
    engine = Engine()  # one each: a test that fails must not touch the next one
    began = time.perf_counter()
    problem: str | None = None
    try:
        for module in modules:
            module.add_to(engine)
        engine.add_data_json(orjson.dumps({"settings": dict(settings)}).decode())
        engine.set_input_json("{}")
        answer = orjson.loads(engine.eval_query_as_json(query)).get("result") or []
        value = answer[0]["expressions"][0]["value"] if answer else None
        if value is not True:
            problem = "is undefined" if value is None else f"is {orjson.dumps(value).decode()}"
    except BaseException as error:  # a panic of regorus is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        problem = explain(name, error).message
    took = (time.perf_counter() - began) * 1000
    return TestOutcome(name=name, passed=problem is None, problem=problem, took_ms=took)
