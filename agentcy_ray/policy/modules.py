"""Reading Rego text: which rules decide, and what a policy must not call.

regorus parses; this file looks at the tree it gives. The older form ``deny[msg] { … }`` is Rego v0,
which regorus still reads, file by file, beside v1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import regorus

from agentcy_ray.core.errors import PolicyInvalidError
from agentcy_ray.stores.killable import EndedError

# The wheel carries no types.
Engine: Any = regorus.Engine  # pyright: ignore[reportAttributeAccessIssue]
Program: Any = regorus.Program  # pyright: ignore[reportAttributeAccessIssue]

MAX_BYTES = 256 * 1024
DECIDING = ("deny", "require_approval")
Reader = Callable[[str, str, bool], Any]
"""(name, text, whether it is Rego v0) → the tree that regorus makes of a policy."""
_REFUSED = re.compile(r"(http\.send|opa\.runtime|trace|rand\..+)")
_WHERE = re.compile(r"-->\s*([^\n]*):(\d+):(\d+)")
_WHAT = re.compile(r"error: (.+)")


@dataclass(frozen=True)
class Rule:
    """A rule whose set decides: its path below ``data`` and its name, one of ``DECIDING``."""

    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """``deny`` or ``require_approval``."""
        return self.path[-1]

    @property
    def text(self) -> str:
        """``data.agentcy.tools.deny``."""
        return ".".join(("data", *self.path))

    @property
    def query(self) -> str:
        """The rule as a Rego reference that stands any package name."""
        return "data" + "".join(f"[{orjson.dumps(part).decode()}]" for part in self.path)


@dataclass(frozen=True)
class Module:
    """One policy's text, parsed and found acceptable."""

    policy_id: str
    name: str
    text: str
    v0: bool
    rules: tuple[Rule, ...]
    tree: Any = field(repr=False, compare=False)
    """What regorus parsed."""

    def add_to(self, engine: Any) -> None:
        """Load the text into a regorus engine."""
        engine.set_rego_v0(self.v0)
        try:
            engine.add_policy(self.name, self.text)
        finally:
            engine.set_rego_v0(False)


def read_here(name: str, text: str, v0: bool) -> Any:
    """Parse in this process, which no text may keep busy that somebody else wrote."""
    engine = Engine()
    engine.set_rego_v0(v0)
    engine.add_policy(name, text)
    return orjson.loads(engine.get_ast_as_json())[0]["ast"]


def parse(policy_id: str, name: str, text: str, read: Reader = read_here) -> Module:
    """Parse one policy, by ``read``.

    Raises:
        PolicyInvalidError: it does not parse, lies outside of package ``agentcy``, calls a refused
            or unknown function, or gives ``deny`` another form than a set; ``details`` hold
            ``policy``, ``line`` and ``column`` (1-based).
    """
    if len(text.encode()) > MAX_BYTES:
        raise invalid(name, f"is larger than {MAX_BYTES // 1024} KiB; split it", 1, 1)
    tree, v0 = _tree(name, text, read)
    package = _reference(tree["package"]["refr"]) or ()
    if package[:1] != ("agentcy",):
        span = tree["package"]["span"]
        raise invalid(name, "has to be in package agentcy or below", span["line"], span["col"])
    rules: dict[tuple[str, ...], Rule] = {}
    functions: set[str] = set()
    for rule in tree["rules"]:
        path, form, span = _head(rule)
        if form == "Func" and path:
            functions.add(".".join(path))
        if not path or path[-1] not in DECIDING:
            continue
        if form != "Set":
            raise invalid(
                name,
                f"defines {path[-1]!r} as something else than a set, which would decide nothing; "
                f"write `{path[-1]} contains msg if {{ … }}`",
                span["line"],
                span["col"],
            )
        rules[package + path] = Rule(package + path)
    _check_calls(name, text, tree, functions)
    return Module(policy_id, name, text, v0, tuple(rules.values()), tree)


def invalid(name: str, problem: str, line: int | None, column: int | None) -> PolicyInvalidError:
    """The error for a policy that cannot be used."""
    where = f"line {line}, column {column}: " if line else ""
    return PolicyInvalidError(
        f"policy {name!r}: {where}{problem}", policy=name, line=line, column=column
    )


def explain(name: str, error: BaseException) -> PolicyInvalidError:
    """A regorus failure as ours: without its stack trace, with line and column as numbers.

    ``name`` is what to call the policy when the failure names none.
    """
    text = str(error).partition("Stack backtrace")[0].strip()
    where = _WHERE.search(text)
    what = _WHAT.search(text)
    problem = what[1] if what else text or type(error).__name__
    if where is None:
        return invalid(name, problem, None, None)
    return invalid(where[1], problem, int(where[2]), int(where[3]))


def _tree(name: str, text: str, read: Reader) -> tuple[dict[str, Any], bool]:
    """Parse as v1, then as v0; of two failures the one that got further is told."""
    failures: list[PolicyInvalidError] = []
    for v0 in (False, True):
        try:
            return read(name, text, v0), v0
        except BaseException as error:  # a panic of regorus is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            failures.append(explain(name, error))
            if isinstance(error, EndedError):
                break
    raise max(failures, key=lambda e: (e.details["line"] or 0, e.details["column"] or 0))


def _head(rule: dict[str, Any]) -> tuple[tuple[str, ...] | None, str, dict[str, Any]]:
    """Path, form (``Set``, ``Compr``, ``Func``, ``Default``) and place of a rule."""
    if "Default" in rule:
        return _reference(rule["Default"]["refr"]), "Default", rule["Default"]["span"]
    spec = rule["Spec"]
    form, head = next(iter(spec["head"].items()))
    return _reference(head["refr"], keys=form == "Set"), form, spec["span"]


def _reference(node: dict[str, Any], *, keys: bool = True) -> tuple[str, ...] | None:
    """``a.b["c"]`` as parts; None for anything that is not a plain reference.

    With ``keys`` False a trailing bracket is the key of a partial object, not a part of the name.
    """
    kind, body = next(iter(node.items()))
    if kind == "Var":
        return (body["value"],)
    if kind == "RefDot":
        head = _reference(body["refr"])
        return None if head is None else (*head, body["field"][1])
    if kind == "RefBrack":
        head = _reference(body["refr"])
        if head is None or not keys:
            return head
        index = body["index"].get("String")
        return None if index is None else (*head, index["value"])
    return None


def _check_calls(name: str, text: str, tree: dict[str, Any], functions: set[str]) -> None:
    imported = {_imported_as(item, text) for item in tree["imports"]}
    for call, arity, span in _calls(tree["rules"]):
        if _REFUSED.fullmatch(call):
            raise invalid(name, f"{call} may not be called here", span["line"], span["col"])
        head = call.split(".", 1)[0]
        if call in functions or head == "data" or head in imported:
            continue
        if not _is_builtin(call, arity):
            raise invalid(name, f"no function {call!r}", span["line"], span["col"])


def _imported_as(item: dict[str, Any], text: str) -> str:
    """The name that an import brings in; the tree gives an alias as a place in the text."""
    if alias := item.get("as"):
        return text.encode()[alias["start"] : alias["end"]].decode()
    return (_reference(item["refr"]) or ("",))[-1]


def _calls(node: Any) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Every call in a tree: name, number of arguments, place."""
    if isinstance(node, list):
        for item in node:
            yield from _calls(item)
    elif isinstance(node, dict):
        if "Call" in node and "fcn" in node["Call"]:
            call = node["Call"]
            if path := _reference(call["fcn"]):
                yield ".".join(path), len(call["params"]), _start(call["fcn"])
        for item in node.values():
            yield from _calls(item)


def _start(node: dict[str, Any]) -> dict[str, Any]:
    """The place where a reference begins; its own span marks the last dot."""
    body = next(iter(node.values()))
    return _start(body["refr"]) if "refr" in body else body["span"]


def _is_builtin(call: str, arity: int) -> bool:
    """Whether regorus knows the function; its compiler does, and gives no list of them."""
    arguments = ", ".join(["null"] * arity)
    probe = f"package probe\nimport rego.v1\nvalue := {call}({arguments})\n"
    try:
        Program.compile_from_modules("{}", [("probe.rego", probe)], ["data.probe.value"])
    except BaseException as error:  # a panic of regorus is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return "Unknown function" not in str(error)
    return True
