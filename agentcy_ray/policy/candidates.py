"""Trying a policy before it is saved: a candidate set, and why it decides as it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.policy.engine import PolicyText, RegoEngine, compile_policies
from agentcy_ray.policy.input import Decision, PolicyInput
from agentcy_ray.policy.modules import MAX_BYTES
from agentcy_ray.policy.store import Policy, policy_settings

CANDIDATE = "candidate"
"""Stands for the id of a policy that is not stored."""


class Candidate(BaseModel):
    """A policy to try: it takes the place of the active one of its name, or joins the set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    rego: str = Field(max_length=MAX_BYTES)


@dataclass(frozen=True)
class PolicySet:
    """The texts of a set and what they read as ``data.settings``; small, and may be pickled."""

    texts: tuple[PolicyText, ...]
    settings: Mapping[str, Any]

    def compile(self, timeout_ms: float) -> RegoEngine:
        """The engine of the set.

        Raises:
            PolicyInvalidError: a policy cannot be used; ``details`` hold policy, line and column.
        """
        return compile_policies(self.texts, self.settings, timeout_ms)


class FiredRule(BaseModel):
    """A deciding rule that had something to say."""

    rule: str
    policy_id: str
    policy: str
    messages: list[Any]


class Explanation(BaseModel):
    """A decision, and what it rests on."""

    decision: Decision
    rules: list[FiredRule]
    """What fired, denying rules and those that ask for an approval."""
    reads: list[str]
    """The paths of the input that could matter to a question of this kind."""
    cacheable: bool
    volatile: list[str]
    """Why the decision is not kept: built-ins and paths that differ each time."""


def policy_set(
    stored: Sequence[Policy], settings: Mapping[str, Any], candidates: Sequence[Candidate] = ()
) -> PolicySet:
    """The active set with the candidates in it.

    Args:
        stored: all policies of the organisation; those that are off stay off.
        settings: the organisation's settings.
        candidates: policies to try.
    """
    tried = {candidate.name: candidate.rego for candidate in candidates}
    texts = [policy.text for policy in stored if policy.enabled and policy.name not in tried]
    texts += [PolicyText(CANDIDATE, name, rego) for name, rego in sorted(tried.items())]
    return PolicySet(tuple(texts), policy_settings(settings))


def explain(engine: RegoEngine, question: PolicyInput) -> Explanation:
    """Decide a question and say why."""
    decision = engine.decide(question)
    fired = [
        FiredRule(rule=rule, policy_id=module.policy_id, policy=module.name, messages=messages)
        for rule, module, messages in engine.fired(question)
    ]
    plan = engine.plan(question)
    return Explanation(
        decision=decision,
        rules=fired,
        reads=plan.paths,
        cacheable=plan.cacheable,
        volatile=sorted(plan.reads.volatile),
    )
