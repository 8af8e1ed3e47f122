"""References in a policy set: what a dotted path means, and which rules it reaches.

The analysis of ``reads.py`` stands on two promises of this file: a reference that could mean the
input is never taken for something else, and a reference that could reach a rule reaches it. Where
Rego's scoping is finer (a local variable named like a rule), more is reached than is true, which
costs a needless miss of the decision cache and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
Node = Any
"""A piece of the tree that regorus gives."""


@dataclass(frozen=True)
class Reference:
    """``root.a["b"][expr].c`` as root ``root`` and path ``("a", "b")``, not exact."""

    root: str
    path: Path
    exact: bool
    """Whether ``path`` is the whole of it; else it is the longest static prefix."""
    inside: tuple[Node, ...] = ()
    """The expressions in brackets that are no texts."""


def reference(node: Node) -> Reference | None:
    """Read a node as a reference; None when it is something else, or begins with an expression."""
    match node:
        case {"Var": {"value": str(name)}}:
            return Reference(name, (), True)
        case {"RefDot": {"refr": head, "field": [_, str(name)]}}:
            return _extended(reference(head), name)
        case {"RefBrack": {"refr": head, "index": {"String": {"value": str(name)}}}}:
            return _extended(reference(head), name)
        case {"RefBrack": {"refr": head, "index": index}}:
            found = reference(head)
            return found and Reference(found.root, found.path, False, (*found.inside, index))
        case _:
            return None


def _extended(found: Reference | None, name: str) -> Reference | None:
    if found is None or not found.exact:
        return found
    return Reference(found.root, (*found.path, name), True)


@dataclass(frozen=True, eq=False)
class Definition:
    """One rule or function body of a module, and the names that it sees."""

    path: Path
    """Below ``data``."""
    node: Node
    package: Path
    aliases: Mapping[str, Reference]
    """Imported name → what it stands for, rooted at ``input`` or ``data``."""
    parameters: tuple[str | None, ...] | None
    """Names of a function's parameters, None for one that is a pattern; None for a rule."""


class Definitions:
    """All rules and functions of a policy set, found by path."""

    def __init__(self, modules: Sequence[tuple[Node, str]]) -> None:
        """Take trees with their texts, which import aliases are read from."""
        self._all = [each for tree, text in modules for each in _definitions(tree, text)]
        self._rules: dict[Path, list[Definition]] = {}

    def rules(self, path: Path) -> Sequence[Definition]:
        """The rules that ``data.<path>`` may read: at, below and above it."""
        found = self._rules.get(path)
        if found is None:
            found = self._rules[path] = [
                each
                for each in self._all
                if each.parameters is None
                and all(a == b for a, b in zip(each.path, path, strict=False))
            ]
        return found

    def functions(self, path: Path) -> Sequence[Definition]:
        """The bodies of the function ``data.<path>``."""
        return [each for each in self._all if each.path == path and each.parameters is not None]


def _definitions(tree: Node, text: str) -> list[Definition]:
    package = reference(tree["package"]["refr"])
    path: Path = () if package is None else (package.root, *package.path)
    aliases = dict(_aliases(tree["imports"], text))
    return [
        Definition((*path, *name), node, path, aliases, parameters)
        for node in tree["rules"]
        for name, parameters in [_head(node)]
    ]


def _aliases(imports: Sequence[Node], text: str) -> list[tuple[str, Reference]]:
    found: list[tuple[str, Reference]] = []
    for item in imports:
        target = reference(item["refr"])
        if target is None or target.root not in {"input", "data"}:
            continue
        if place := item.get("as"):
            found.append((text.encode()[place["start"] : place["end"]].decode(), target))
        elif target.path:
            found.append((target.path[-1], target))
    return found


def _head(node: Node) -> tuple[Path, tuple[str | None, ...] | None]:
    """Static path below the package, and the parameters of a function."""
    if "Default" in node:
        default = node["Default"]
        return _name(default["refr"]), _parameters(default["args"]) if default["args"] else None
    form, head = next(iter(node["Spec"]["head"].items()))
    return _name(head["refr"]), _parameters(head["args"]) if form == "Func" else None


def _name(node: Node) -> Path:
    found = reference(node)
    return () if found is None else (found.root, *found.path)


def _parameters(arguments: Sequence[Node]) -> tuple[str | None, ...]:
    found = [reference(each) for each in arguments]
    return tuple(each.root if each and each.exact and not each.path else None for each in found)
