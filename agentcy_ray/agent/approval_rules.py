"""When a call needs a person: §7 of the product specification, as one function."""

from __future__ import annotations

from agentcy_ray.agent.calls import Agent
from agentcy_ray.core.errors import PolicyDeniedError
from agentcy_ray.core.tools import CatalogEntry, Effect
from agentcy_ray.policy.input import Decision
from agentcy_ray.policy.service import OrgRules


def approval_reasons(
    entry: CatalogEntry, effect: Effect, decision: Decision, rules: OrgRules, agent: Agent | None
) -> tuple[str, ...]:
    """Why somebody has to approve: tool, default, policies, in this order; empty = nobody has to.

    The agent's default for an effect wins over the organisation's. Built-in tools have no default.

    Raises:
        PolicyDeniedError: the default is ``deny``.
    """
    reasons: list[str] = []
    if entry.spec.requires_approval:
        reasons.append(f"{entry.name} always needs an approval")
    if not entry.builtin:
        if agent is not None and effect in agent.approval_defaults:
            whose, default = f"agent {agent.name!r}", agent.approval_defaults[effect]
        else:
            whose, default = "the organisation", rules.default_of(effect)
        if default == "deny":
            raise PolicyDeniedError(
                f"the default of {whose} denies {effect.value} calls; an admin can change it"
            )
        if default == "approve":
            reasons.append(f"by the default of {whose}, {effect.value} calls are approved")
    return (*reasons, *decision.approval_reasons)
