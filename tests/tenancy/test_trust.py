"""What the code itself must not do: run a tenant's bytes, or take a tenant's word for who it is."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentcy_ray
from agentcy_ray.core.ids import new_id
from agentcy_ray.runtime.wire import pack, unpack_exchange, unpack_reply
from tests.trees import parsed

ROOT = Path(agentcy_ray.__file__).parent
pytestmark = pytest.mark.attack

BY_NAME = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
"""Modules whose reader runs what it reads."""
READERS = {
    ("runtime/wire.py", "pickle"): "reads plain values only: its reader finds no class",
}
"""Where one of them is imported, and why that is safe."""
CALLS = {
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "eval", "exec", "compile",
    "pandas.read_pickle", "read_pickle", "__import__", "os.system", "os.popen",
}  # fmt: skip
"""Calls that run what they are given; none is in the product."""

ORG_IN_ACTORS = {
    "runtime/dispatch.py check_source": "the caller's own, from its principal",
    "runtime/session_hosts.py check_source": "the same on the other side; opens rows of that org",
    "runtime/session_hosts.py open_config": "of a call's order, which the gateway made",
    "runtime/session_hosts.py version": "of a call's order, which the gateway made",
    "runtime/host_desk.py check": "as check_source",
}
"""Functions of the cluster that take an organisation's id, and where it comes from."""
ASKERS = {"body", "request", "query", "question", "payload", "asked", "form", "data", "raw"}
"""What the API names by these words came from outside."""
MAYBE = re.compile(
    r"pickle|dill|shelve|marshal|joblib|\byaml\b|torch\.load|\b(eval|exec|compile)\(|__import__"
    r"|os\.(system|popen)|trust_remote_code|shell"
)
"""Only modules that hold one of these words are parsed."""
ORG = re.compile(r"\b(org|org_id|tenant|tenant_id)\b")


def modules(room: str, words: re.Pattern[str]) -> Iterator[tuple[str, ast.Module]]:
    """Name and tree of those modules of a room that hold one of the words."""
    for path in sorted((ROOT / room).rglob("*.py")):
        if words.search(path.read_text()):
            yield str(path.relative_to(ROOT)), parsed(path)


@pytest.mark.requirement("SEC-02")
def test_nothing_is_read_that_runs_what_it_reads() -> None:
    found: set[tuple[str, str]] = set()
    calls: list[str] = []
    for name, tree in modules("", MAYBE):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {(name, one.name) for one in node.names if one.name in BY_NAME}
            elif isinstance(node, ast.ImportFrom) and node.module in BY_NAME:
                found.add((name, node.module))
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in CALLS or called.endswith((".read_pickle", ".from_pickle")):
                    calls.append(f"{name}: {called}")
                for word in node.keywords:
                    if word.arg in ("allow_pickle", "trust_remote_code") and not (
                        isinstance(word.value, ast.Constant) and word.value.value is False
                    ):
                        calls.append(f"{name}: {word.arg}")
                if called.endswith(".create_subprocess_shell") or any(
                    word.arg == "shell" and ast.unparse(word.value) != "False"
                    for word in node.keywords
                ):
                    calls.append(f"{name}: a shell")
    assert found == set(READERS)
    assert calls == []


@pytest.mark.requirement("SEC-02")
def test_an_exchange_between_processes_holds_plain_values_only() -> None:
    org, source = new_id().bytes, new_id().bytes
    args = {"text": "ä", "deep": [{"n": 1, "f": 1.5, "none": None, "yes": True}] * 3}
    wire = (1, org, source, "tool", args, False, None, False, 1.5)
    exchange = ("caller", 3, True, [wire], [7])
    assert unpack_exchange(pack(exchange)) == exchange
    reply = (3, ("a", "b"), [1], [(1, b"{}", None, None, False, 0.5)])
    assert unpack_reply(pack(reply)) == reply
    for evil in (Runs(), [Runs()], {"x": Runs}, Path("/"), new_id(), print):
        with pytest.raises(pickle.UnpicklingError):
            unpack_exchange(pickle.dumps(("caller", 3, True, [evil], [])))


class Runs:
    """Would run when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def test_actors_take_an_organisation_from_a_principal_or_a_row_only() -> None:
    found: set[str] = set()
    for room in ("runtime", "serve"):
        for name, tree in modules(room, ORG):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    names = [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
                    if any(arg in ("org", "org_id", "tenant", "tenant_id") for arg in names):
                        found.add(f"{name} {node.name}")
    assert found == set(ORG_IN_ACTORS)


def test_the_api_asks_nobody_but_the_principal_for_the_organisation() -> None:
    for name, tree in modules("api", ORG):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "org_id":
                base = ast.unparse(node.value)
                assert base.split(".")[0] not in ASKERS, f"{name}: {base}.org_id"


BINDERS = {
    "stores/postgres.py": "the only two ways to a row",
    "context/advanced/databases.py": "asks which organisation was first, with a text of its own",
}
"""Modules that take a role or name a tenant to Postgres."""
BINDS = re.compile(r"app\.org_id|SET (LOCAL |SESSION )?(ROLE|SESSION)\b(?!`)|set_config\('role'")
LASTS = re.compile(r"\bWITH HOLD\b|\bSET SESSION\b|'LISTEN |\bNOTIFY \w|pg_advisory_lock\(")
"""What would outlast its transaction on a connection that changes hands."""
SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|MERGE INTO|SET|WHERE)\b")
OUTSIDE = re.compile(
    r"\b(body|request|caller|principal|payload|args|params|question|value|query|header|cookie)\b"
)
FRONT_ENDS = ("context/languages/", "devkyma/")
"""They make statements out of statements that they have parsed; tests of their own attack them."""


def _texts(name: str) -> Iterator[str]:
    """The strings of a module that are no docstrings."""
    tree = parsed(ROOT / name)
    said = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in said:
            yield node.value


@pytest.mark.requirement("TEN-03")
def test_one_module_takes_roles_and_nothing_outlasts_its_transaction() -> None:
    bound: set[str] = set()
    for path in sorted(ROOT.rglob("*.py")):
        name, text = str(path.relative_to(ROOT)), path.read_text()
        if BINDS.search(text) and any(BINDS.search(one) for one in _texts(name)):
            bound.add(name)
        if name != "stores/migrate.py":  # on a connection of its own, which it closes
            assert not LASTS.search(text), name
    assert bound == set(BINDERS)


def test_no_statement_is_made_of_what_came_from_outside() -> None:
    made = 0
    for name, tree in modules("", SQL):
        if name.startswith(FRONT_ENDS):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.JoinedStr):
                continue
            parts = [one.value for one in node.values if isinstance(one, ast.Constant)]
            if not SQL.search("".join(str(part) for part in parts)):
                continue
            made += 1
            for one in node.values:
                if isinstance(one, ast.FormattedValue):
                    text = ast.unparse(one.value)
                    assert not OUTSIDE.search(text), f"{name}:{node.lineno}: {text}"
    assert made > 50
