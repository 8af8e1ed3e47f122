"""Which policy sets cost so little, whatever they are asked, that no process guards against them.

A set is plain when its text shows that an evaluation takes time and memory in proportion to text
and input: no iteration, no comprehension, no ``with``; functions that call each other only so
often; built-ins that look at their arguments once and give nothing larger back; and values that
are put together from parts of the input, not from one another, so that none doubles step by step.
What this file does not know is not plain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentcy_ray.policy.modules import Module
from agentcy_ray.policy.references import reference

MAX_NODES = 4000
"""Nodes of the trees of a plain set."""
MAX_CALLS = 1000
"""Function bodies that an evaluation may enter."""
_ONCE = frozenset({
    "startswith", "endswith", "contains", "lower", "upper", "trim", "trim_space", "trim_prefix",
    "trim_suffix", "trim_left", "trim_right", "substring", "indexof", "split", "count", "is_string",
    "is_number", "is_boolean", "is_array", "is_set", "is_object", "is_null", "type_name",
    "to_number", "abs", "round", "ceil", "floor", "object.get", "net.cidr_contains", "time.clock",
    "time.now_ns", "time.parse_rfc3339_ns", "time.weekday", "time.date", "regex.match",
    "glob.match",
})  # fmt: skip
"""Built-ins whose cost and result are in proportion to their arguments."""
_SHORT_CHARS = 4096
_NESTED = 3
_TEXTS = re.compile(r'"(?:\\.|[^"\\\n])*"|`[^`]*`|#[^\n]*')
_SCALARS = frozenset({"String", "RawString", "Number", "Bool", "Null"})
_LITERAL = frozenset({"Expr", "NotExpr"})
_PAIRS = frozenset({"BoolExpr", "AssignExpr", "Membership"})
_IMPORTS = (("rego", "v1"), ("future", "keywords"))


class _NotPlain(Exception):
    """Something that is not known to be cheap."""


def is_short(text: str) -> bool:
    """Whether regorus parses a text at once: its time doubles with each level of ``[`` and ``{``.

    A text of this size and depth takes 40 ms at most.
    """
    depth = 0
    if len(text) > _SHORT_CHARS:
        return False
    for char in _TEXTS.sub("", text):
        if char in "[{(":
            depth += 1
            if depth > _NESTED:
                return False
        elif char in "]})":
            depth -= 1
    return True


def is_plain(modules: Sequence[Module]) -> bool:
    """Whether the modules, together one set, are plain."""
    functions = {name for module in modules for name in _functions(module.tree)}
    costs: dict[str, int] = {}
    entered = nodes = 0
    try:
        bodies = [
            (rule, _Body(rule, functions)) for module in modules for rule in _rules(module.tree)
        ]
        for module in modules:
            _imports(module.tree)
        calls: dict[str, list[str]] = {}
        for name, body in bodies:
            body.look()
            nodes += body.nodes
            if _form(name) == "Func":
                calls.setdefault(_name(name), []).extend(body.calls)
        for _, body in bodies:
            entered += sum(_cost(call, calls, costs, ()) for call in body.calls)
    except (_NotPlain, RecursionError):
        return False
    return nodes <= MAX_NODES and entered <= MAX_CALLS


def _cost(name: str, calls: Mapping[str, list[str]], costs: dict[str, int], above: Any) -> int:
    """Bodies that a call of a function enters at most."""
    if name in above:
        raise _NotPlain
    if name not in costs:
        inner = (_cost(call, calls, costs, (*above, name)) for call in calls.get(name, ()))
        costs[name] = 1 + sum(inner)
    return costs[name]


class _Body:
    """One rule: what it calls, and whether every part of it is known."""

    def __init__(self, rule: Any, functions: set[str]) -> None:
        self._rule = rule
        self._functions = functions
        self._flat: set[str] = set()
        self.calls: list[str] = []
        self.nodes = 0

    def look(self) -> None:
        """Go through the rule.

        Raises:
            _NotPlain: it has a part that is not known to be cheap.
        """
        if "Default" in self._rule:
            return self._built(self._rule["Default"]["value"])
        for body in self._rule["Spec"]["bodies"]:
            self._flat = set()
            for statement in body["query"]["stmts"]:
                self._statement(statement)
            if body["assign"] is not None:
                self._expression(body["assign"]["value"])
            for value in _of_head(self._rule["Spec"]["head"]):
                self._expression(value)
        if not self._rule["Spec"]["bodies"]:
            for value in _of_head(self._rule["Spec"]["head"]):
                self._expression(value)
        return None

    def _statement(self, statement: Any) -> None:
        (form, literal), *_ = statement["literal"].items()
        if form not in _LITERAL or statement.get("with_mods"):
            raise _NotPlain
        self._expression(literal["expr"])
        assign = literal["expr"].get("AssignExpr")
        name = assign and assign["lhs"].get("Var", {}).get("value")
        if name and self._is_flat(assign["rhs"]):
            self._flat.add(name)

    def _expression(self, node: Any) -> None:
        self.nodes += 1
        (form, body), *_ = node.items()
        if form in _SCALARS or form == "Var":
            return
        if form in ("RefDot", "RefBrack"):
            found = reference(node)
            if found is None or not all(map(self._looks_up, found.inside)):
                raise _NotPlain
        elif form in _PAIRS:
            for part in ("lhs", "rhs", "value", "collection"):
                if part in body:
                    self._expression(body[part])
            if body.get("key") is not None:
                raise _NotPlain
        elif form == "ArithExpr" and body["op"] in ("Add", "Sub"):
            self._expression(body["lhs"])
            self._expression(body["rhs"])
        elif form == "Call":
            self._call(node, body)
        elif form in ("Array", "Set", "Object"):
            self._built(node)
        else:
            raise _NotPlain

    def _call(self, node: Any, body: Any) -> None:
        found = reference(body["fcn"])
        name = ".".join((found.root, *found.path)) if found and found.exact else ""
        if name == "sprintf":
            return self._built(node)
        if name in self._functions:
            self.calls.append(name)
        elif name not in _ONCE or (name.endswith(".match") and not _pattern(body["params"])):
            raise _NotPlain
        for argument in body["params"]:
            self._expression(argument)
        return None

    def _built(self, node: Any) -> None:
        """A value put together: its parts stand here, or are parts of the input."""
        self.nodes += 1
        (form, body), *_ = node.items()
        if form in ("Array", "Set"):
            for item in body["items"]:
                self._built(item)
        elif form == "Object":
            for _, key, value in body["fields"]:
                self._built(key)
                self._built(value)
        elif form == "Call" and body["fcn"].get("Var", {}).get("value") == "sprintf":
            if len(body["params"]) != 2 or not _format(body["params"][0]):
                raise _NotPlain
            self._built(body["params"][1])
        elif not self._is_flat(node):
            raise _NotPlain

    def _is_flat(self, node: Any) -> bool:
        """Whether a value is a scalar, a part of the input, or what a built-in makes of those."""
        (form, body), *_ = node.items()
        if form in _SCALARS:
            return True
        if form == "Var":
            return body["value"] in self._flat
        if form == "Call":
            found = reference(body["fcn"])
            name = ".".join((found.root, *found.path)) if found else ""
            return name in _ONCE and all(map(self._is_flat, body["params"]))
        found = reference(node)
        if found is None or not all(map(self._looks_up, found.inside)):
            return False
        return found.root == "input" or (found.root == "data" and found.path[:1] == ("settings",))

    def _looks_up(self, index: Any) -> bool:
        """Whether a bracket holds one key; a name that is not bound would stand for each key."""
        return self._is_flat(index) and "Call" not in index


def _rules(tree: Any) -> Sequence[Any]:
    return tree["rules"]


def _form(rule: Any) -> str:
    return "Default" if "Default" in rule else next(iter(rule["Spec"]["head"]))


def _name(rule: Any) -> str:
    found = reference(rule["Spec"]["head"]["Func"]["refr"])
    if found is None or not found.exact:
        raise _NotPlain
    return ".".join((found.root, *found.path))


def _functions(tree: Any) -> Iterator[str]:
    for rule in _rules(tree):
        if _form(rule) == "Func":
            found = reference(rule["Spec"]["head"]["Func"]["refr"])
            if found is not None:
                yield ".".join((found.root, *found.path))


def _of_head(head: Any) -> Iterator[Any]:
    """The expressions of a head: key and value; a function's parameters are names."""
    (form, body), *_ = head.items()
    if form == "Func" and any("Var" not in each for each in body["args"]):
        raise _NotPlain
    for part in (body.get("key"), (body.get("assign") or {}).get("value")):
        if part is not None:
            yield part
    if form == "Compr" and "RefBrack" in body["refr"]:
        yield body["refr"]["RefBrack"]["index"]


def _imports(tree: Any) -> None:
    for item in tree["imports"]:
        found = reference(item["refr"])
        if found is None or (found.root, *found.path)[:2] not in _IMPORTS:
            raise _NotPlain


def _format(node: Any) -> bool:
    """Whether a text of sprintf stands here and asks for no width of more than two digits."""
    text = (node.get("String") or node.get("RawString") or {}).get("value")
    if not isinstance(text, str):
        return False
    asked = (piece[:16] for piece in text.split("%")[1:])
    return all(sum(c.isdigit() for c in piece[:6]) <= 2 and "*" not in piece for piece in asked)


def _pattern(arguments: Sequence[Any]) -> bool:
    """Whether a pattern stands here and repeats nothing a counted number of times."""
    node = arguments[0] if arguments else {}
    text = (node.get("String") or node.get("RawString") or {}).get("value")
    return isinstance(text, str) and len(text) <= 256 and "{" not in text
