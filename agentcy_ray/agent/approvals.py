"""Approvals: durable rows that people decide once, and that release one call once.

Every move is a guarded UPDATE, so of two deciders, or a decision and an expiry, one wins. A waiter
hears the bell in milliseconds, and looks at Postgres by itself when the bell is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from agentcy_ray.agent import approval_rows as rows_of
from agentcy_ray.agent.approval_audit import ApprovalAudit
from agentcy_ray.agent.approval_records import Approval, NewApproval, Status, Via, Vote
from agentcy_ray.agent.approval_rows import MAX_PENDING, approval_of
from agentcy_ray.agent.approval_wait import Waits
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.core.errors import (
    ConflictError,
    GoneError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
)
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.states import APPROVAL, TOOL_CALL, sources_of
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import ToolStatus
from agentcy_ray.policy.service import OrgRules, PolicyService
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    from agentcy_ray.agent.approval_rows import Connection

_CANCELLED = {"code": "cancelled", "message": "the run was cancelled"}


class Approvals:
    """The approval registry of this process; the rows are shared by all."""

    def __init__(
        self, db: Database, bell: Bell, settings: Settings, policy: PolicyService, audit: AuditLog
    ) -> None:
        self._db = db
        self._bell = bell
        self._policy = policy
        self._audit = ApprovalAudit(db, audit)
        self._waits = Waits(db, bell, settings.approval_poll_secs)
        self._timeout_secs = settings.approval_timeout_secs

    async def open(self, connection: Connection, org_id: UUID, wanted: NewApproval) -> Approval:
        """Write a pending approval inside the caller's transaction; ``announce`` it afterwards.

        Raises:
            RateLimitedError: the organisation has 200 pending ones.
        """
        rules = await self._policy.rules(org_id)
        row = await connection.fetchrow(
            rows_of.OPEN, new_id(), org_id, wanted.run_id, wanted.conversation_id,
            wanted.tool_call_id, wanted.connector, wanted.source_id, wanted.tool, wanted.args,
            wanted.args_sha256, wanted.effect.value, list(wanted.reasons), wanted.by_policy,
            wanted.requested_by, float(rules.approval_timeout_secs or self._timeout_secs),
            wanted.quorum, wanted.second_person,
        )  # fmt: skip
        if row is None:
            raise RateLimitedError(
                f"{MAX_PENDING} approvals wait in this organisation; decide some of them first",
                code="quota_exceeded",
            )
        return approval_of(row)

    async def announce(self, approval: Approval) -> None:
        """Tell every process that an approval has changed."""
        run_id = approval.run_id
        await self._bell.ring(
            f"ch:approval:{approval.org_id.hex}",
            {
                "approval_id": encode("apr", approval.id),
                "run_id": None if run_id is None else encode("run", run_id),
                "status": approval.status,
            },
        )

    async def of_call(self, org_id: UUID, tool_call_id: UUID) -> Approval | None:
        """The approval of a tool call, or None."""
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(rows_of.OF_CALL, tool_call_id)
        return None if row is None else approval_of(row)

    async def get(self, principal: Principal, approval_id: UUID) -> Approval:
        """One approval that ``principal`` may see, with its votes.

        Raises:
            NotFoundError: there is none, or it is somebody else's.
            PermissionDeniedError: without ``chat.read``.
        """
        own = principal.require("chat.read") == "own"
        approval = await self._row(principal.org_id, approval_id)
        if own and approval.requested_by != principal.user_id:
            raise _not_found(approval_id)
        return approval

    async def list(
        self,
        principal: Principal,
        *,
        status: Status | None = None,
        mine: bool = False,
        conversation_id: UUID | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> tuple[Approval, ...]:
        """Approvals that ``principal`` may see, newest first, with their votes."""
        own = mine or principal.require("chat.read") == "own"
        requester = principal.user_id if own else None
        async with self._db.tenant(principal.org_id) as connection:
            rows = await connection.fetch(
                rows_of.LIST, status, requester, conversation_id, before, limit
            )
        return tuple(map(approval_of, rows))

    async def decide(
        self,
        principal: Principal,
        approval_id: UUID,
        *,
        approved: bool,
        via: Via,
        note: str | None = None,
        request_id: str | None = None,
    ) -> Approval:
        """Approve or deny. A refusal decides; an approval decides when it completes the quorum.

        Answers the approval with all its votes; it is still ``pending`` while others are needed.

        Raises:
            PermissionDeniedError: no ``chat.approve``; or a policy asked and the grant is not
                full; or a policy or the organisation wants a second person and this is the
                requester.
            NotFoundError: there is none, or it is somebody else's under the grant ``own``.
            ConflictError: ``already_decided``, by anybody or as far as this person goes.
            GoneError: ``approval_expired``.
        """
        grant, org_id = principal.require("chat.approve"), principal.org_id
        rules = await self._policy.rules(org_id)
        audit_id, api_key = new_id(), principal.api_key_id
        try:
            async with self._db.tenant(org_id) as connection:
                row = await connection.fetchrow(
                    rows_of.VOTE, approval_id, new_id(), org_id, principal.user_id, api_key,
                    approved, via, note, request_id, audit_id, grant == "full",
                    rules.approval_second_person,
                )  # fmt: skip
        except asyncpg.UniqueViolationError:  # the same person twice in the same instant
            row = None
        if row is None:
            raise await self._refused(principal, grant, approval_id, rules)
        decided = approval_of(row)
        await self.announce(decided)
        await self._audit.vote(
            decided,
            {
                "user_id": principal.user_id, "api_key_id": api_key, "approved": approved,
                "via": via, "vote_note": note, "request_id": request_id,
                "vote_audit_id": audit_id,
            },
        )  # fmt: skip
        if decided.quorum == 1 and decided.decided_at is not None:
            own = Vote(
                by=principal.user_id, approved=approved, via=via, note=note, at=decided.decided_at
            )
            return decided.model_copy(update={"votes": (own,)})
        votes = (await self._row(org_id, approval_id)).votes  # the row may be used up by now
        return decided.model_copy(update={"votes": votes})

    async def wait(self, org_id: UUID, approval_id: UUID) -> Approval:
        """Return once the approval is no longer pending; expires it when its time is over."""
        while (approval := await self.wait_or_hear(org_id, approval_id)) is None:
            continue  # by now the row says what was heard
        return approval

    async def wait_or_hear(self, org_id: UUID, approval_id: UUID) -> Approval | None:
        """As ``wait``, but None as soon as a ring says that it was approved.

        That is a hint, which ``use`` may try at once: it saves the look at the row.
        """
        async with self._waits.waiting(org_id, approval_id) as knock:
            while True:
                async with self._db.tenant(org_id) as connection:
                    row = await connection.fetchrow(rows_of.LOOK, approval_id)
                if row is None:
                    raise _not_found(approval_id)
                if row["status"] != "pending":
                    return approval_of(row)
                if row["secs_left"] <= 0:
                    await self._expire(org_id, approval_id)
                elif await knock.look(row["secs_left"]) == "approved":
                    return None

    async def use(self, org_id: UUID, approval_id: UUID, args_sha256: str) -> Approval | None:
        """Use an approval up and record the intent of its call, in one transaction.

        None when it is not approved (any more), was given for other arguments, or whoever asked
        may not act any more.

        Raises:
            ConflictError: ``state_conflict``: the call is over already; nothing was used up.
        """
        states = sources_of(TOOL_CALL, ToolStatus.DISPATCHED.value)
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(rows_of.USE, approval_id, args_sha256, states)
            if row is not None and not row["sent"]:
                raise ConflictError("the call is over already", code="state_conflict")
        return None if row is None else approval_of(row)

    async def asker_is_there(self, org_id: UUID, approval_id: UUID) -> bool:
        """Whether whoever asked for the call still has an account that may act."""
        async with self._db.tenant(org_id) as connection:
            return bool(await connection.fetchval(rows_of.ASKER_THERE, approval_id))

    async def cancel(self, org_id: UUID, approval_id: UUID) -> None:
        """Void an approval that is pending or approved; others stay as they are."""
        states = sources_of(APPROVAL, "cancelled")
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(rows_of.CANCEL, approval_id, states)
        await self._tell(rows)

    async def cancel_for_run(self, org_id: UUID, run_id: UUID) -> int:
        """Void what a run waits for, approvals and calls; its waiters return. Gives the number."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(
                rows_of.CANCEL_RUN, run_id, sources_of(APPROVAL, "cancelled")
            )
            await connection.execute(rows_of.CANCEL_CALLS, run_id, _CANCELLED)
        await self._tell(rows)
        return len(rows)

    async def sweep(self) -> int:
        """Expire what is overdue in every organisation, and audit what nobody has; the number."""
        async with self._db.system() as connection:
            rows = await connection.fetch(rows_of.EXPIRE_ALL)
        await self._tell(rows)
        await self._audit.repair()
        return len(rows)

    async def _row(self, org_id: UUID, approval_id: UUID) -> Approval:
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(rows_of.GET, approval_id)
        if row is None:
            raise _not_found(approval_id)
        return approval_of(row)

    async def _expire(self, org_id: UUID, approval_id: UUID) -> None:
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(rows_of.EXPIRE_ONE, approval_id)
        await self._tell(rows)

    async def _tell(self, rows: Sequence[asyncpg.Record]) -> None:
        """Ring for approvals that ended without a vote, and audit them."""
        ended = [(approval_of(row), row["audit_id"]) for row in rows]
        for approval, _ in ended:
            await self.announce(approval)
        await asyncio.gather(*(self._audit.ended(approval, id_) for approval, id_ in ended))

    async def _refused(
        self, principal: Principal, grant: str, approval_id: UUID, rules: OrgRules
    ) -> Exception:
        """Why a vote did not count."""
        await self._expire(principal.org_id, approval_id)
        approval = await self._row(principal.org_id, approval_id)
        _check_decider(principal, grant, approval, rules)
        if approval.status == "expired":
            return GoneError(
                "the time to decide is over; let the call be made again", code="approval_expired"
            )
        if approval.status == "pending":
            said = f"you have approved it already; it takes {approval.quorum} different people"
        else:
            said = f"the approval is {approval.status} already"
        return ConflictError(said, code="already_decided", status=approval.status)


def _check_decider(principal: Principal, grant: str, approval: Approval, rules: OrgRules) -> None:
    """Whether this person may decide this approval."""
    own = approval.requested_by == principal.user_id
    if grant != "full":
        if not own:
            raise _not_found(approval.id)
        if approval.by_policy:
            raise PermissionDeniedError(
                "a policy asked for this approval: it takes an owner or an admin to decide it",
                permission="chat.approve",
            )
    if own and (approval.second_person or rules.approval_second_person):
        who = "a policy" if approval.second_person else "this organisation"
        raise PermissionDeniedError(
            f"{who} wants a second person: somebody else has to decide it",
            permission="chat.approve",
        )


def _not_found(approval_id: UUID) -> NotFoundError:
    return NotFoundError(
        f"no approval {encode('apr', approval_id)}; list the pending ones to find yours"
    )
