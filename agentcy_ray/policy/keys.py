"""The key of a decision: the values at just those paths of the input that the set reads.

There is a plan for each kind of question, told apart by the values of the guarding paths (in
practice the action and the type of the resource). Looking a key up takes a few microseconds, so
this file trades some elegance for it: one flat loop, and values that are their own key where
possible. Texts, true, false and null stand for themselves; everything else is its JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from agentcy_ray.policy.input import SECTIONS, PolicyInput
from agentcy_ray.policy.reads import ARRAY, MISSING, OBJECT, OTHER, Reads, Use, analyse
from agentcy_ray.policy.references import Definitions, Path

MAX_PART_BYTES = 4096
"""A question with a larger value at a path that is read is not remembered."""
_MAX_PLANS = 512
_GRANTED: Path = ("context", "approval_granted")

Key = tuple[Any, ...]
_Step = tuple[str, str | None, Path, Use]
"""Section, field, the path below the field, and how it is used."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What one kind of question is decided by."""

    reads: Reads
    steps: tuple[_Step, ...]

    @property
    def cacheable(self) -> bool:
        """Whether decisions may be kept."""
        return not self.reads.volatile

    @property
    def paths(self) -> list[str]:
        """The paths read, as ``input.resource.tool``."""
        return sorted(".".join(("input", *path)) for path in self.reads.uses)


class Planner:
    """Finds the plan of a question, and the key that the plan makes of it."""

    def __init__(
        self, definitions: Definitions, entries: tuple[Path, ...], settings: Mapping[str, Any]
    ) -> None:
        """Analyse the rules ``entries`` of a set whose ``data.settings`` are ``settings``."""
        self._definitions = definitions
        self._entries = entries
        self._settings = settings
        guards = analyse(definitions, entries, settings).guards
        self._guards = tuple(_steps(dict[Path, Use](guards)))
        self._guarding = tuple((path, texts) for path, texts in sorted(guards.items()))
        self._plans: dict[Key, Plan] = {}

    def plan(self, question: PolicyInput) -> tuple[Plan, Key]:
        """The plan of a question, and the values that chose it.

        Raises:
            TypeError: the question holds what is no JSON.
        """
        chosen = _values(self._guards, question)
        plan = self._plans.get(chosen)
        if plan is None:
            known = {path: part for (path, _), part in zip(self._guarding, chosen, strict=True)}
            reads = analyse(self._definitions, self._entries, self._settings, known)
            plan = Plan(reads, tuple(_steps({**reads.uses, _GRANTED: None})))
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[chosen] = plan
        return plan, chosen

    def key(self, plan: Plan, chosen: Key, question: PolicyInput) -> Key | None:
        """The key of a question with its plan, None when its decision is not to be kept.

        Raises:
            TypeError: the question holds what is no JSON.
        """
        if plan.reads.volatile:
            return None
        key = (*chosen, *_values(plan.steps, question))
        for part in key:
            if (type(part) is bytes or type(part) is str) and len(part) > MAX_PART_BYTES:
                return None
        return key


def seen(plan: Plan, question: PolicyInput) -> dict[str, Any]:
    """The input that holds just the paths of a plan.

    Deciding by this makes a decision a function of its key: what is not in the key cannot matter.
    """
    found: dict[str, Any] = {}
    for section, name, below, _ in plan.steps:
        value: Any = getattr(question, section)
        if name is None:
            found[section] = value
            continue
        _copy((section, name, *below), {section: value}, found)
    return found


def _copy(path: Path, source: Any, into: dict[str, Any]) -> None:
    """Copy the value at ``path``; whole where what lies on the way is no plain object."""
    for name in path[:-1]:
        source = source.get(name, MISSING)
        if type(source) is not dict:
            if source is not MISSING:
                into[name] = source
            return
        into = into.setdefault(name, {})
        if into is source:  # a shorter path has copied all of it
            return
    if path[-1] in source:
        into[path[-1]] = source[path[-1]]


def _steps(uses: Mapping[Path, Use]) -> list[_Step]:
    steps: list[_Step] = []
    for path, use in sorted(uses.items(), key=lambda item: item[0]):
        if not path:
            if use is None:
                steps.extend((section, None, (), None) for section in SECTIONS)
        elif path[0] in SECTIONS:  # any other is never there
            steps.append((path[0], path[1] if len(path) > 1 else None, path[2:], use))
    return steps


def _values(steps: tuple[_Step, ...], question: PolicyInput) -> Key:
    parts: list[Any] = []
    for section, name, below, texts in steps:
        value: Any = getattr(question, section)
        if name is not None:
            value = value.get(name, MISSING) if type(value) is dict else _below(value, (name,))
            if below:
                value = _below(value, below)
        if type(value) is str:
            parts.append(value if texts is None or value in texts else OTHER)
        elif value is None or value is True or value is False or value is MISSING:
            parts.append(value)
        elif texts is not None and type(value) is dict:
            parts.append(OBJECT)
        elif texts is not None and type(value) is list:
            parts.append(ARRAY)
        else:
            parts.append(orjson.dumps(value, default=str))
    return tuple(parts)


def _below(value: Any, path: Path) -> Any:
    for name in path:
        if type(value) is dict:
            value = value.get(name, MISSING)
        elif value is MISSING or value is None or isinstance(value, str | int | float | list):
            return MISSING
        else:  # an object that only JSON knows the fields of
            found = orjson.loads(orjson.dumps(value, default=str))
            value = found.get(name, MISSING) if isinstance(found, dict) else MISSING
    return value
