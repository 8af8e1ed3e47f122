"""What a policy set reads: the paths of ``input``, how it uses them, and what makes it volatile.

A path is read **by value**, or only **by class**: it is compared with texts, tested for its type or
for being there. All texts that are none of those compared are then alike, so an identifier that a
policy merely wants to be non-empty does not take part in the key of a decision.

A body counts only while it can be entered. Its leading comparisons of the input with constants
(``input.action == "source.delete"``) and its look-ups of settings are its guards; regorus evaluates
them first, so what stands behind a guard that fails is not read. The analysis is made once for each
set of guard values that occurs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentcy_ray.policy.references import Definition, Definitions, Node, Path, Reference, reference

VOLATILE_PATHS: Final = (("env", "now"), ("context", "request_id"))
"""Different in every question; a decision that depends on their value is not worth keeping."""
_VOLATILE_CALLS = re.compile(r"time\.now_ns|rand\..+|http\..+|opa\..+|uuid\.rfc4122|net\.lookup.+")
_TYPE_TESTS = frozenset(
    {"is_string", "is_null", "is_boolean", "is_number", "is_array", "is_object", "is_set",
     "type_name"}
)  # fmt: skip

Use = frozenset[str] | None
"""The texts that a path is compared with; None when its whole value matters.

Numbers, truth values and null always count by value, objects and arrays then by their type.
"""
ANY: Final[Use] = frozenset()
"""Only type, truth or presence matters."""


class Kind:
    """What stands in a key for values that are alike to a set."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


MISSING, OTHER = Kind("missing"), Kind("other text")
OBJECT, ARRAY = Kind("object"), Kind("array")


@dataclass
class Reads:
    """What a set reads of one kind of question."""

    uses: dict[Path, Use] = field(default_factory=dict[Path, Use])
    volatile: set[str] = field(default_factory=set[str])
    """Why the decision must not be kept, empty when it may be: calls and paths."""
    guards: dict[Path, frozenset[str]] = field(default_factory=dict[Path, frozenset[str]])
    """Guarding paths and the texts that they are compared with."""


def analyse(
    definitions: Definitions,
    entries: tuple[Path, ...],
    settings: Mapping[str, Any],
    known: Mapping[Path, Any] | None = None,
) -> Reads:
    """Collect what the rules ``entries`` read, directly and through what they call.

    Args:
        definitions: the set.
        entries: paths of the deciding rules below ``data``.
        settings: what ``data.settings`` holds; it cannot change within a compiled set.
        known: guarding path → a text that it is compared with, ``OTHER``, ``MISSING``, or a value
            that is no text; bodies whose guards fail are left out. None leaves out only those that
            the settings close.
    """
    analysis = _Analysis(definitions, settings, known)
    for path in entries:
        analysis.enter(path)
    reads = analysis.reads
    for path, use in reads.uses.items():
        if use is None:
            reads.volatile.update(
                ".".join(("input", *each)) for each in VOLATILE_PATHS if _overlap(path, each)
            )
    return reads


def _overlap(one: Path, other: Path) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))


class _Analysis:
    def __init__(
        self,
        definitions: Definitions,
        settings: Mapping[str, Any],
        known: Mapping[Path, Any] | None,
    ) -> None:
        self.definitions = definitions
        self.reads = Reads()
        self._settings = settings
        self._known = known
        self._entered: set[Path | Definition] = set()
        self._functions: dict[Path, list[dict[Path, Use]]] = {}

    def enter(self, path: Path) -> None:
        """Read every rule that a reference to ``data.<path>`` may evaluate."""
        if path in self._entered:
            return
        self._entered.add(path)
        for definition in self.definitions.rules(path):
            if definition not in self._entered:
                self._entered.add(definition)
                _Body(self, definition, []).read()

    def function(self, path: Path) -> list[dict[Path, Use]] | None:
        """How a function uses each of its arguments; None when there is no such function."""
        bodies = self.definitions.functions(path)
        if not bodies:
            return None
        if path not in self._functions:
            count = max(len(each.parameters or ()) for each in bodies)
            # Recursion is refused by regorus; were it not, this would be what it sees.
            self._functions[path] = [{(): None} for _ in range(count)]
            uses: list[dict[Path, Use]] = [{(): ANY} for _ in range(count)]
            for each in bodies:
                _Body(self, each, uses).read()
            self._functions[path] = uses
        return self._functions[path]

    def closed(self, path: Path, texts: frozenset[str], *, negated: bool) -> bool:
        """Note a guard, and say whether it is known to fail."""
        self.reads.guards[path] = self.reads.guards.get(path, frozenset()) | texts
        if self._known is None or path not in self._known:
            return False
        value = self._known[path]
        return (isinstance(value, str) and value in texts) is negated

    def setting(self, path: Path) -> Any:
        """The value of ``data.<path>`` for a path below ``settings``, or ``MISSING``."""
        value: Any = self._settings
        for name in path[1:]:
            value = value.get(name, MISSING) if isinstance(value, Mapping) else MISSING
        return value


class _Body:
    """Reads one rule or function with the names that it sees."""

    def __init__(
        self, analysis: _Analysis, definition: Definition, parameters: list[dict[Path, Use]]
    ) -> None:
        self._analysis = analysis
        self._at = definition
        names = definition.parameters or ()
        self._parameters = {
            name: uses for name, uses in zip(names, parameters, strict=False) if name is not None
        }
        for name, uses in zip(names, parameters, strict=False):
            if name is None:  # a pattern looks into its argument
                _note(uses, (), None)

    def read(self) -> None:
        """Read heads and all bodies that can be entered."""
        if "Default" in self._at.node:
            self.walk(self._at.node["Default"]["value"])
            return
        spec = self._at.node["Spec"]
        entered = not spec["bodies"]
        for body in spec["bodies"]:
            statements = body["query"]["stmts"]
            if not self._closed(statements):
                entered = True
                self.walk(body.get("assign"))
                for statement in statements:
                    self._statement(statement)
        if entered:
            self._head(spec["head"])

    def _head(self, head: Node) -> None:
        """Read the brackets, key and value of a rule, and the patterns of a function."""
        (parts,) = head.values()
        found = reference(parts["refr"])
        self.walk(list(found.inside) if found else parts["refr"])
        self.walk([part for part in parts.get("args", ()) if reference(part) is None])
        self.walk([parts.get("key"), parts.get("assign")])

    # -- guards -----------------------------------------------------------------------------------

    def _closed(self, statements: list[Node]) -> bool:
        for statement in statements:
            verdict = None if statement.get("with_mods") else self._guard(statement["literal"])
            if verdict is None:
                return False
            if verdict:
                return True
        return False

    def _guard(self, literal: Node) -> bool | None:
        """Whether a guard is known to fail; None when the literal is no guard."""
        negated = "NotExpr" in literal
        expr: Node = literal.get("NotExpr" if negated else "Expr", {}).get("expr")
        match expr:
            case {"BoolExpr": {"op": "Eq", "lhs": left, "rhs": {"String": _} as right}}:
                return self._guarded(left, [right], negated)
            case {
                "Membership": {
                    "key": None,
                    "value": value,
                    "collection": {"Set": {"items": items}} | {"Array": {"items": items}},
                }
            } if all("String" in item for item in items):
                return self._guarded(value, items, negated)
            case {"AssignExpr": {"op": "ColEq", "lhs": {"Var": _}, "rhs": right}} if not negated:
                value = self._setting(right)
                return None if value is None else value[0] is MISSING
            case _:
                value = self._setting(expr)
                if value is None:
                    return None
                return (value[0] is not MISSING and value[0] is not False) is negated

    def _guarded(self, left: Node, strings: list[Node], negated: bool) -> bool | None:
        found = self._resolved(reference(left))
        if found is None or found.root != "input" or not found.exact:
            return None
        texts = frozenset[str](string["String"]["value"] for string in strings)
        _note(self._analysis.reads.uses, found.path, texts)
        return self._analysis.closed(found.path, texts, negated=negated)

    def _setting(self, node: Node) -> tuple[Any] | None:
        found = self._resolved(reference(node))
        if found is None or not found.exact or (found.root, *found.path[:1]) != (
            "data", "settings",
        ):  # fmt: skip
            return None
        return (self._analysis.setting(found.path),)

    # -- expressions ------------------------------------------------------------------------------

    def _statement(self, statement: Node) -> None:
        if statement.get("with_mods"):
            # The input or a function is another one inside; such a set is not worth more analysis.
            self._analysis.reads.volatile.add("with")
            self.walk(statement["with_mods"])
        literal = statement["literal"]
        expr = literal.get("Expr", literal.get("NotExpr", {})).get("expr")
        if expr is not None and reference(expr) is not None:
            self._touch(expr, ANY)
        else:
            self.walk(literal)

    def walk(self, node: Node) -> None:
        """Take in everything that an expression reads."""
        match node:
            case list():
                for each in node:  # pyright: ignore[reportUnknownVariableType]
                    self.walk(each)
            case {"Var": _} | {"RefDot": _} | {"RefBrack": _}:
                self._touch(node, None)
            case {"Call": {"fcn": function, "params": arguments}}:
                self._call(function, arguments)
            case {"BoolExpr": {"op": "Eq" | "Ne", "lhs": left, "rhs": right}} | {
                "AssignExpr": {"op": "Eq", "lhs": left, "rhs": right}
            }:
                self._compare(left, _texts([right]))
                self._compare(right, _texts([left]))
            case {
                "Membership": {
                    "key": None,
                    "value": value,
                    "collection": {"Set": {"items": items}} | {"Array": {"items": items}},
                }
            }:
                self._compare(value, _texts(items))
                self.walk(items)
            case {"stmts": statements}:
                for each in statements:
                    self._statement(each)
            case dict():
                for each in node.values():  # pyright: ignore[reportUnknownVariableType]
                    self.walk(each)
            case _:
                pass

    def _compare(self, node: Node, texts: frozenset[str] | None) -> None:
        """Take in an expression that is compared with these constants, or with who knows what."""
        if texts is not None and reference(node) is not None:
            self._touch(node, texts)
        else:
            self.walk(node)

    def _call(self, function: Node, arguments: list[Node]) -> None:
        called = reference(function)
        if called is None:
            self.walk(function)
            self.walk(arguments)
            return
        uses: list[dict[Path, Use]] | None = None
        for path in self._paths(called):
            uses = self._analysis.function(path)
        if uses is None:
            name = ".".join((called.root, *called.path))
            if _VOLATILE_CALLS.fullmatch(name):
                self._analysis.reads.volatile.add(name)
            if name in _TYPE_TESTS and len(arguments) == 1 and reference(arguments[0]):
                self._touch(arguments[0], ANY)
                return
        for position, argument in enumerate(arguments):
            if uses is None or position >= len(uses) or reference(argument) is None:
                self.walk(argument)
                continue
            for below, use in uses[position].items():
                self._touch(argument, use, below)

    # -- references -------------------------------------------------------------------------------

    def _touch(self, node: Node, use: Use, below: Path = ()) -> None:
        """Note a reference; one that begins with an expression is walked."""
        found = self._resolved(reference(node))
        if found is None:
            (body,) = node.values()
            self.walk([body.get("refr"), body.get("index")])
            return
        self.walk(list(found.inside))
        path = (*found.path, *below) if found.exact else found.path
        use = use if found.exact else None
        if found.root == "input":
            _note(self._analysis.reads.uses, path, use)
        elif found.root in self._parameters:
            _note(self._parameters[found.root], path, use)
        else:
            for each in self._paths(found):
                self._analysis.enter(each)

    def _resolved(self, found: Reference | None) -> Reference | None:
        """A reference with an imported name replaced by what it stands for."""
        if found is None or found.root in self._parameters or found.root not in self._at.aliases:
            return found
        target = self._at.aliases[found.root]
        return Reference(target.root, (*target.path, *found.path), found.exact, found.inside)

    def _paths(self, found: Reference) -> Iterator[Path]:
        """The paths below ``data`` that a reference may name."""
        resolved = self._resolved(found)
        assert resolved is not None
        if resolved.root == "data":
            yield resolved.path
        else:
            yield (*self._at.package, found.root, *found.path)


def _note(uses: dict[Path, Use], path: Path, use: Use) -> None:
    if path in uses:
        before = uses[path]
        use = None if use is None or before is None else use | before
    uses[path] = use


def _texts(nodes: list[Node]) -> frozenset[str] | None:
    """The texts among constants; None when one of the nodes is no text, number, truth or null."""
    texts: set[str] = set()
    for node in nodes:
        match node:
            case {"String": {"value": str(text)}} | {"RawString": {"value": str(text)}}:
                texts.add(text)
            case {"Number": _} | {"Bool": _} | {"Null": _}:
                pass
            case _:
                return None
    return frozenset(texts)
