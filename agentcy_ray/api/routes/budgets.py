"""Budgets: what may be used a day or by a run, and what was."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query, Request

from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.budgets.limits import BudgetChange, Budgets
from agentcy_ray.budgets.usage import Group, UsageReport, report

router = APIRouter(prefix="/budgets", tags=["budgets"])
Reader = Annotated[Allowed, permit("org.read")]
Payer = Annotated[Allowed, permit("org.billing", handler_audits=True)]


@router.get("")
async def read_budgets(caller: Reader, request: Request) -> Budgets:
    """The limits in force, and what is used of them today."""
    return await services_of(request).spending.ledger.limits.get(caller.org_id)


@router.put("")
async def change_budgets(body: BudgetChange, caller: Payer, request: Request) -> Budgets:
    """Set or remove the limits that are given; the others stay. They hold at once, everywhere."""
    services = services_of(request)
    changed = await services.spending.ledger.limits.change(
        caller.org_id, body, caller.principal.user_id
    )
    await services.gates.audit.append(
        AuditEntry(
            org_id=caller.org_id,
            user_id=caller.principal.user_id,
            api_key_id=caller.principal.api_key_id,
            category="admin",
            action="org.billing",
            decision="allow",
            resource={"type": "budget", **body.model_dump(mode="json", exclude_none=False)},
            context={"request_id": caller.request_id},
        )
    )
    return changed


@router.get("/usage")
async def read_usage(
    caller: Reader,
    request: Request,
    since: date | None = None,
    until: date | None = None,
    group_by: Annotated[list[Group] | None, Query()] = None,
) -> UsageReport:
    """Tokens, cost, GPU seconds and tool calls of whole days, today's by default.

    `group_by` may be given several times.
    """
    groups = tuple(group_by or ("day",))
    return await report(services_of(request).db, caller.org_id, groups, since, until)
