"""What a policy is asked, and what it answers.

The shape of the input is the contract with everybody's Rego, so it is built here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter

from agentcy_ray.core.clock import Clock, SystemClock, rfc3339
from agentcy_ray.core.ids import encode
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import CatalogEntry

TOOL_ACTION = "chat.tool.execute"
"""The action of every tool call, whatever its origin."""
SECTIONS: Final = ("subject", "action", "resource", "context", "env")
"""The parts of an input."""


@dataclass(slots=True)
class Occasion:
    """The parts of an input that the calls share which one caller makes together."""

    subject: dict[str, Any]
    context: dict[str, Any]
    env: dict[str, Any]
    kept: dict[str, Any] | None = None
    """The parts as the audit log keeps them, once somebody has made them so."""


@dataclass(frozen=True, slots=True)
class PolicyInput:
    """``input`` of a Rego evaluation: JSON values, which nobody changes afterwards.

    Not a model: one is made for every tool call, and a model's checks cost more than its decision.
    What comes from outside is read by ``PolicyInput.read``.
    """

    subject: dict[str, Any]
    action: str
    resource: dict[str, Any]
    context: dict[str, Any]
    env: dict[str, Any]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> PolicyInput:
        """An input from a JSON object.

        Raises:
            pydantic.ValidationError: it has another shape.
        """
        return _ADAPTER.validate_python(document)

    def document(self) -> dict[str, Any]:
        """The input as one JSON object; its parts are shared, not copied."""
        return {name: getattr(self, name) for name in SECTIONS}

    def granted(self) -> PolicyInput:
        """The same question after a person has approved."""
        return replace(self, context={**self.context, "approval_granted": True})


_ADAPTER = TypeAdapter(PolicyInput)


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
    """CPU milliseconds of the evaluation; 0 when there was none."""
    cached: bool = False
    """Whether the answer is that of an earlier question which was alike in all that is read."""

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
            env=self.env(),
        )

    def occasion(
        self,
        principal: Principal,
        *,
        request_id: str | None,
        ip: str | None = None,
        realm: str | None = None,
        run_id: UUID | None = None,
        agent: str | None = None,
        parent_run_id: UUID | None = None,
    ) -> Occasion:
        """What the inputs of a caller's tool calls share, as of now."""
        return Occasion(
            subject_of(principal),
            _context(
                request_id=request_id,
                ip=ip,
                realm=realm,
                run_id=_text("run", run_id),
                agent=agent,
                parent_run_id=_text("run", parent_run_id),
            ),
            self.env(),
        )

    def tool(
        self, occasion: Occasion, entry: CatalogEntry, args: dict[str, Any], args_sha256: str
    ) -> PolicyInput:
        """The input of a tool call, before any approval."""
        return PolicyInput(
            subject=occasion.subject,
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
            context=occasion.context,
            env=occasion.env,
        )

    def env(self) -> dict[str, Any]:
        """``input.env`` as of now."""
        return {"now": rfc3339(self._clock.now()), "instance_mode": self._instance_mode}


def subject_of(principal: Principal) -> dict[str, Any]:
    """``input.subject`` for a principal; ids in their public form. Shared: do not change it."""
    return _subject(
        principal.user_id,
        principal.org_id,
        principal.role.value,
        principal.external_id,
        principal.api_key_id,
        principal.channel,
    )


@lru_cache(maxsize=4096)
def _subject(
    user_id: UUID,
    org_id: UUID,
    role: str,
    external_id: str | None,
    api_key_id: UUID | None,
    channel: str,
) -> dict[str, Any]:
    return {
        "user_id": encode("usr", user_id),
        "org_id": encode("org", org_id),
        "role": role,
        "external_id": external_id,
        "api_key_id": _text("key", api_key_id),
        "channel": channel,
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


@lru_cache(maxsize=4096)
def _text(prefix: str, value: UUID | None) -> str | None:
    return None if value is None else encode(prefix, value)
