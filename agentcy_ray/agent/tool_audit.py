"""The audit entry of a governed call: exactly one, whatever became of it."""

from __future__ import annotations

from uuid import UUID

from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.ids import encode
from agentcy_ray.core.redaction import Redactor
from agentcy_ray.core.tools import ToolResult, ToolStatus
from agentcy_ray.policy.input import TOOL_ACTION

REFUSED = frozenset({ToolStatus.DENIED, ToolStatus.CANCELLED})


def entry_of(
    ctx: CallContext, opened: OpenCall, result: ToolResult, audit_id: UUID, redactor: Redactor
) -> AuditEntry:
    """The entry for ``result``; the decision that let it through or stopped it, and its outcome.

    Category ``policy`` when a gate stopped the call, else ``chat`` (tool outcomes).
    """
    refused = result.status in REFUSED
    entry, decision, principal = opened.entry, opened.decision, ctx.principal
    reasons = list(decision.reasons) if decision else []
    if refused and result.error is not None and not reasons:
        reasons.append(result.error.message)
    return AuditEntry(
        id=audit_id,
        org_id=ctx.org_id,
        user_id=principal.user_id,
        api_key_id=principal.api_key_id,
        category="policy" if refused else "chat",
        action=TOOL_ACTION,
        decision="deny" if refused else "allow",
        resource={
            "type": "tool",
            "connector": opened.call.connector,
            "source": _public("src", entry.source_id if entry else None),
            "tool": entry.name if entry else f"{opened.call.connector}.{opened.call.tool}",
            "tool_effect": opened.effect.value,
            "builtin": entry.builtin if entry else False,
            "status": result.status.value,
            "error": result.error.code if result.error else None,
        },
        policy_id=decision.policy_id if decision else None,
        rule=decision.rule if decision else None,
        reasons=tuple(reasons),
        input=redactor.json(opened.question.document(), by_field=True) if opened.question else None,
        context={
            "ip": ctx.ip,
            "request_id": ctx.request_id,
            "run_id": _public("run", ctx.run_id),
            "conversation_id": _public("cnv", ctx.conversation_id),
            "tool_call_id": encode("tc", opened.tool_call_id),
            "approval_id": _public("apr", result.approval_id),
            "latency_ms": _millis(decision.latency_ms) if decision else None,
            "usage_ms": _millis(result.usage_ms),
        },
    )


def _millis(value: float) -> float | int:
    """Milliseconds to the microsecond; whole ones as integers, which RFC 8785 writes alike."""
    value = round(value, 3)
    return int(value) if value.is_integer() else value


def _public(prefix: str, value: UUID | None) -> str | None:
    return None if value is None else encode(prefix, value)
