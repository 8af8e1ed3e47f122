"""The audit entry of a governed call: exactly one, whatever became of it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.audit.canonical import canonical
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.ids import encode
from agentcy_ray.core.redaction import Redactor
from agentcy_ray.core.tools import ToolResult, ToolStatus
from agentcy_ray.policy.input import TOOL_ACTION, Occasion

REFUSED = frozenset({ToolStatus.DENIED, ToolStatus.CANCELLED})


def entry_of(
    ctx: CallContext, opened: OpenCall, result: ToolResult, audit_id: UUID, redactor: Redactor
) -> AuditEntry:
    """The entry for ``result``; the decision that let it through or stopped it, and its outcome.

    Category ``policy`` when a gate stopped the call, else ``chat`` (tool outcomes).
    """
    refused = result.status in REFUSED
    entry, decision, principal = opened.entry, opened.decision, ctx.principal
    reasons = decision.reasons if decision else ()
    if refused and result.error is not None and not reasons:
        reasons = (result.error.message,)
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
        reasons=reasons,
        input=_input(opened, redactor),
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


def _input(opened: OpenCall, redactor: Redactor) -> dict[str, Any] | None:
    """The policy's input without secrets; what is in its canonical form already stays so."""
    question, occasion = opened.question, opened.occasion
    if question is None or occasion is None:
        return None
    harmless = redactor.harmless(opened.args_json, by_field=True)
    args = (
        orjson.Fragment(opened.args_json)
        if harmless
        else redactor.json(opened.call.args, by_field=True)
    )
    return {
        **_kept(occasion, redactor),
        "action": question.action,
        "resource": {**question.resource, "args": args},
    }


def _kept(occasion: Occasion, redactor: Redactor) -> dict[str, Any]:
    """The shared parts, made ready once for all calls of the occasion."""
    if occasion.kept is None:
        occasion.kept = {
            name: orjson.Fragment(canonical(redactor.json(part, by_field=True)))
            for name, part in (
                ("subject", occasion.subject),
                ("context", occasion.context),
                ("env", occasion.env),
            )
        }
    return occasion.kept


def _millis(value: float) -> float | int:
    """Milliseconds to the microsecond; whole ones as integers, which RFC 8785 writes alike."""
    value = round(value, 3)
    return int(value) if value.is_integer() else value


def _public(prefix: str, value: UUID | None) -> str | None:
    return None if value is None else encode(prefix, value)
