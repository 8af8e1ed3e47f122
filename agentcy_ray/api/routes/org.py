"""The caller's organisation: what it says about itself, what it used, who owns it."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.api.permit import Allowed, also, denials_audited, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.api.witness import witness
from agentcy_ray.budgets.limits import BudgetChange, Budgets
from agentcy_ray.budgets.usage import Group, UsageReport, report
from agentcy_ray.core.ids import JobId, UserId, encode
from agentcy_ray.identity.orgs import Org, OrgSettingsChange
from agentcy_ray.identity.users import User
from agentcy_ray.ingest.erasure import erase_job
from agentcy_ray.jobs.records import Job

router = APIRouter(prefix="/org", tags=["organisation"])
Reader = Annotated[Allowed, permit("org.read")]
Writer = Annotated[Allowed, permit("org.write")]
Deleter = Annotated[Allowed, permit("org.delete")]
Owner = Annotated[Allowed, permit("org.transfer")]


class OrgView(Org):
    """The organisation with its budget."""

    model_config = ConfigDict(frozen=True)

    budget: Budgets


class OrgChange(BaseModel):
    """What to change; absent fields stay. `budget` needs `org.billing` as well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    display_name: str | None = Field(default=None, min_length=1, max_length=200)
    settings: OrgSettingsChange = OrgSettingsChange()
    budget: BudgetChange | None = None


class Deletion(BaseModel):
    """A deletion has to name what it deletes."""

    model_config = ConfigDict(extra="forbid")

    confirm: str = Field(max_length=100, description="The organisation's short name.")


class Deleting(BaseModel):
    """The job that deletes; nobody of the organisation can ask for it any more."""

    job_id: JobId


class Transfer(BaseModel):
    """Who is to be the owner."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId


@router.get("")
async def read_org(caller: Reader, request: Request) -> OrgView:
    """The organisation, its settings and its budget: the limits, and what is used of them today."""
    services = services_of(request)
    org = await services.access.orgs.get(caller.org_id)
    return _view(org, await services.spending.ledger.limits.get(caller.org_id))


@router.patch("")
async def change_org(body: OrgChange, caller: Writer, request: Request) -> OrgView:
    """Change the name that people read, the settings or the budget.

    Limits of the budget that are not named stay; those that are hold at once, everywhere.
    """
    orgs, limits = services_of(request).access.orgs, services_of(request).spending.ledger.limits
    if body.budget is not None:
        await also(request, caller, "org.billing")
        await limits.change(caller.org_id, body.budget, caller.principal.user_id)
        given = body.budget.model_dump(mode="json")
        await witness(request, caller, "org.billing", {"type": "budget", **given})
    given = body.model_dump(mode="json", exclude_unset=True, exclude={"budget"})
    if given:
        await orgs.change(caller.org_id, body.display_name, body.settings)
        resource = {"type": "org", "id": encode("org", caller.org_id), "change": given}
        await witness(request, caller, "org.update", resource)
    return _view(await orgs.get(caller.org_id), await limits.get(caller.org_id))


@router.delete("", status_code=202)
async def delete_org(body: Deletion, caller: Deleter, request: Request) -> Deleting:
    """Close the organisation at once and delete all of it by a job.

    Logins, API keys and ingest tokens end. Rows, graph, vectors and objects are deleted; the audit
    log stays for as long as it is kept, and witnesses the deletion.
    """
    services, jobs = services_of(request), list[Job]()

    async def ask(connection: Any) -> None:
        jobs.append(await services.queue.store.insert(connection, erase_job(caller.org_id)))

    await services.access.orgs.close(caller.org_id, body.confirm, ask)
    resource = {"type": "org", "id": encode("org", caller.org_id), "job": encode("job", jobs[0].id)}
    await witness(request, caller, "org.delete", resource)
    await services.queue.announce(jobs[0])
    return Deleting(job_id=jobs[0].id)


@router.get("/usage")
async def read_org_usage(
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


@router.post("/transfer")
async def transfer_org(body: Transfer, caller: Owner, request: Request) -> User:
    """Make another user the owner; the caller becomes an admin."""
    async with denials_audited(request, caller, "org.transfer"):
        heir = await services_of(request).access.users.transfer(caller.principal, body.user_id)
    await witness(
        request, caller, "org.transfer",
        {"type": "org", "id": encode("org", caller.org_id), "to": encode("usr", heir.id)},
    )  # fmt: skip
    return heir


def _view(org: Org, budget: Budgets) -> OrgView:
    return OrgView(**dict(org), budget=budget)
