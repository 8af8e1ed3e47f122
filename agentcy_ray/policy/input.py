"""What a policy is asked, and what it answers.

The shape of the input is the contract with everybody's Rego, so it is built here and nowhere else.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.clock import Clock, SystemClock, rfc3339
from agentcy_ray.core.ids import encode
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import CatalogEntry

TOOL_ACTION = "chat.tool.execute"
"""The action of every tool call, whatever its origin."""


class PolicyInput(BaseModel):
    """``input`` of a Rego evaluation."""

    model_config = ConfigDict(frozen=True)

    subject: dict[str, Any]
    action: str
    resource: dict[str, Any]
    context: dict[str, Any]
    env: dict[str, Any]

    def granted(self) -> PolicyInput:
        """The same question after a person has approved."""
        return self.model_copy(update={"context": {**self.context, "approval_granted": True}})


class Decision(BaseModel):
    """The answer. ``policy_id`` and ``rule`` name what denied, or else what asks for approval.

    Members of a ``require_approval`` set are texts, or objects such as
    ``{"msg": "…", "quorum": 2, "second_person": true}``; the strictest of them holds (``asks.py``).
    """

    model_config = ConfigDict(frozen=True)

    decision: Literal["allow", "deny"]
    reasons: tuple[str, ...] = ()
    policy_id: str | None = None
    rule: str | None = None
    requires_approval: bool = False
    approval_reasons: tuple[str, ...] = ()
    approval_quorum: int = 1
    """How many different people have to approve."""
    approval_second_person: bool = False
    """Whether the requester may not be one of them."""
    latency_ms: float = 0.0

    @property
    def allowed(self) -> bool:
        """Whether the action may go on, approval aside."""
        return self.decision == "allow"


class InputBuilder:
    """Builds inputs with the environment of this install."""

    def __init__(self, instance_mode: str, clock: Clock | None = None) -> None:
        self._instance_mode = instance_mode
        self._clock = clock or SystemClock()

    def request(
        self,
        principal: Principal,
        action: str,
        *,
        resource_type: str,
        resource_id: str | None,
        method: str,
        path: str,
        request_id: str,
        ip: str | None = None,
        realm: str | None = None,
    ) -> PolicyInput:
        """The input of an API request; ``action`` is the permission of its route."""
        return PolicyInput(
            subject=subject_of(principal),
            action=action,
            resource={
                "type": resource_type,
                "id": resource_id,
                "method": method,
                "path": path,
            },
            context=_context(request_id=request_id, ip=ip, realm=realm),
            env=self._env(),
        )

    def tool(
        self,
        principal: Principal,
        entry: CatalogEntry,
        args: dict[str, Any],
        args_sha256: str,
        *,
        request_id: str | None,
        ip: str | None = None,
        realm: str | None = None,
        run_id: UUID | None = None,
        agent: str | None = None,
        parent_run_id: UUID | None = None,
    ) -> PolicyInput:
        """The input of a tool call, before any approval."""
        return PolicyInput(
            subject=subject_of(principal),
            action=TOOL_ACTION,
            resource={
                "type": "tool",
                "connector": entry.connector,
                "source": _text("src", entry.source_id),
                "tool": entry.name,
                "tool_effect": entry.spec.effect.value,
                "builtin": entry.builtin,
                "args": args,
                "args_sha256": args_sha256,
            },
            context=_context(
                request_id=request_id,
                ip=ip,
                realm=realm,
                run_id=_text("run", run_id),
                agent=agent,
                parent_run_id=_text("run", parent_run_id),
            ),
            env=self._env(),
        )

    def _env(self) -> dict[str, Any]:
        return {"now": rfc3339(self._clock.now()), "instance_mode": self._instance_mode}


def subject_of(principal: Principal) -> dict[str, Any]:
    """``input.subject`` for a principal; ids in their public form."""
    return {
        "user_id": encode("usr", principal.user_id),
        "org_id": encode("org", principal.org_id),
        "role": principal.role.value,
        "external_id": principal.external_id,
        "api_key_id": _text("key", principal.api_key_id),
        "channel": principal.channel,
    }


def _context(**known: Any) -> dict[str, Any]:
    return {
        "approval_granted": False,
        "ip": None,
        "realm": None,
        "request_id": None,
        "run_id": None,
        "agent": None,
        "parent_run_id": None,
        **known,
    }


def _text(prefix: str, value: UUID | None) -> str | None:
    return None if value is None else encode(prefix, value)
