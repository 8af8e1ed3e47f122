"""Replay: what a candidate set would have decided about questions that were asked before.

Both sets, the active one and the candidate, decide each recorded input, so that a change of
somebody's role since then is not taken for a change of policy. Inputs are recorded in the audit
log, their arguments masked: a policy that looks for a secret in them does not find it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from agentcy_ray.policy.engine import RegoEngine
from agentcy_ray.policy.input import Decision, PolicyInput

EXAMPLES = 20
GROUPS = 200
"""Tools, agents and people that a report lists, those with most changes first."""

Change = Literal[
    "allow_to_deny", "deny_to_allow", "newly_requires_approval", "no_longer_requires_approval"
]

CHANGES: tuple[Change, ...] = get_args(Change)


class Recorded(NamedTuple):
    """One recorded question."""

    seq: int
    at: datetime
    input: dict[str, Any]


class Changes(BaseModel):
    """How many decisions change, by kind of change."""

    allow_to_deny: int = 0
    deny_to_allow: int = 0
    newly_requires_approval: int = 0
    no_longer_requires_approval: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, change) for change in CHANGES)

    def count(self, change: Change, by: int = 1) -> None:
        """Count a change."""
        setattr(self, change, getattr(self, change) + by)

    def add(self, other: Changes) -> None:
        """Take over the counts of another one."""
        for change in CHANGES:
            self.count(change, getattr(other, change))


class Example(BaseModel):
    """One decision that changes."""

    model_config = ConfigDict(frozen=True)

    seq: int
    at: datetime
    change: Change
    tool: str
    agent: str | None
    person: str | None
    reasons: tuple[str, ...]
    """Why the candidate denies or asks; of a deny that falls away, why it was."""


class BlastRadius(Changes):
    """What a candidate changes, in all and by tool, agent and person."""

    evaluated: int = 0
    unreadable: int = 0
    """Records of another shape than today's input."""
    by_tool: dict[str, Changes] = {}
    by_agent: dict[str, Changes] = {}
    by_person: dict[str, Changes] = {}
    examples: list[Example] = []


@dataclass
class Tally:
    """A blast radius in the making; tallies of several stretches add up in any order."""

    evaluated: int = 0
    unreadable: int = 0
    changes: Changes = field(default_factory=Changes)
    groups: dict[str, dict[str, Changes]] = field(
        default_factory=lambda: {"tool": {}, "agent": {}, "person": {}}
    )
    examples: list[Example] = field(default_factory=list[Example])

    def replay(self, before: RegoEngine, after: RegoEngine, records: Iterable[Recorded]) -> None:
        """Decide each record by both sets and count what changes."""
        for record in records:
            try:
                question = PolicyInput.read(record.input)
            except ValidationError:
                self.unreadable += 1
                continue
            self.evaluated += 1
            old, new = before.decide(question), after.decide(question)
            change = change_of(old, new)
            if change is not None:
                self._count(record, question, change, new if change != "deny_to_allow" else old)

    def merge(self, other: Tally) -> None:
        """Take over another tally."""
        self.evaluated += other.evaluated
        self.unreadable += other.unreadable
        self.changes.add(other.changes)
        for kind, groups in other.groups.items():
            for name, changes in groups.items():
                self.groups[kind].setdefault(name, Changes()).add(changes)
        self.examples = sorted([*self.examples, *other.examples], key=lambda e: -e.seq)[:EXAMPLES]

    def report(self) -> BlastRadius:
        """The counts so far."""
        return BlastRadius(
            **self.changes.model_dump(),
            evaluated=self.evaluated,
            unreadable=self.unreadable,
            by_tool=_largest(self.groups["tool"]),
            by_agent=_largest(self.groups["agent"]),
            by_person=_largest(self.groups["person"]),
            examples=self.examples,
        )

    def _count(
        self, record: Recorded, question: PolicyInput, change: Change, telling: Decision
    ) -> None:
        tool = question.resource.get("tool") or question.action
        agent, person = question.context.get("agent"), question.subject.get("user_id")
        self.changes.count(change)
        for kind, name in (("tool", tool), ("agent", agent), ("person", person)):
            self.groups[kind].setdefault(str(name or "none"), Changes()).count(change)
        example = Example(
            seq=record.seq, at=record.at, change=change, tool=str(tool), agent=agent, person=person,
            reasons=telling.reasons or telling.approval_reasons,
        )  # fmt: skip
        self.examples = sorted([*self.examples, example], key=lambda e: -e.seq)[:EXAMPLES]


def change_of(before: Decision, after: Decision) -> Change | None:
    """The change between two decisions; None when the caller would not notice any."""
    if before.allowed != after.allowed:
        return "allow_to_deny" if before.allowed else "deny_to_allow"
    if before.requires_approval != after.requires_approval:
        asks = after.requires_approval
        return "newly_requires_approval" if asks else "no_longer_requires_approval"
    return None


def _largest(groups: dict[str, Changes]) -> dict[str, Changes]:
    ordered = sorted(groups.items(), key=lambda item: (-item[1].total, item[0]))
    return dict(ordered[:GROUPS])
