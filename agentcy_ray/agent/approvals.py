"""Approvals: durable rows that a person decides once, and that release one call once.

Every move is a guarded UPDATE, so of two deciders, or a decision and an expiry, one wins. A waiter
hears the bell in milliseconds, and looks at Postgres by itself when the bell is away.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import UUID

from agentcy_ray.agent.approval_records import Approval, NewApproval, Status, Via
from agentcy_ray.audit.entry import AuditEntry
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
from agentcy_ray.core.states import APPROVAL, sources_of
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.policy.service import PolicyService
from agentcy_ray.stores.bell import Bell, Ear
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

MAX_PENDING = 200

_COLUMNS = (
    "id, org_id, run_id, conversation_id, tool_call_id, connector, source_id, tool, args,"
    " args_sha256, effect, reasons, by_policy, status, requested_by, decided_by, decided_via,"
    " note, expires_at, decided_at, consumed_at, created_at"
)
# Counts and inserts in one statement: the limit holds but for openings in the same instant.
_OPEN = f"""
INSERT INTO approvals (id, org_id, run_id, conversation_id, tool_call_id, connector, source_id,
  tool, args, args_sha256, effect, reasons, by_policy, requested_by, expires_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
  clock_timestamp() + make_interval(secs => $15)
WHERE (SELECT count(*) FROM approvals
       WHERE org_id = $2 AND status = 'pending' AND expires_at > clock_timestamp()) < {MAX_PENDING}
RETURNING {_COLUMNS}
"""
_GET = f"SELECT {_COLUMNS} FROM approvals WHERE id = $1"
_OF_CALL = f"SELECT {_COLUMNS} FROM approvals WHERE tool_call_id = $1"
_LIST = f"""
SELECT {_COLUMNS} FROM approvals
WHERE ($1::text IS NULL OR status = $1) AND ($2::uuid IS NULL OR requested_by = $2)
  AND ($3::uuid IS NULL OR conversation_id = $3) AND ($4::uuid IS NULL OR id < $4)
  AND ($1 IS DISTINCT FROM 'pending' OR expires_at > clock_timestamp())
ORDER BY id DESC LIMIT $5
"""
_DECIDE = f"""
UPDATE approvals SET status = $2, decided_by = $3, decided_via = $4, note = $5,
  decided_at = clock_timestamp()
WHERE id = $1 AND status = 'pending' AND expires_at > clock_timestamp() RETURNING {_COLUMNS}
"""
_EXPIRE_ONE = f"""
UPDATE approvals SET status = 'expired'
WHERE id = $1 AND status = 'pending' AND expires_at <= clock_timestamp() RETURNING {_COLUMNS}
"""
_EXPIRE_ALL = """
UPDATE approvals SET status = 'expired'
WHERE status = 'pending' AND expires_at <= clock_timestamp() RETURNING id, org_id, run_id
"""
_SECS_LEFT = (
    "SELECT extract(epoch FROM expires_at - clock_timestamp()) FROM approvals WHERE id = $1"
)
_CONSUME = """
UPDATE approvals SET status = 'consumed', consumed_at = clock_timestamp()
WHERE id = $1 AND status = 'approved' AND args_sha256 = $2 RETURNING id
"""
_CANCEL = "UPDATE approvals SET status = 'cancelled' WHERE id = $1 AND status = ANY($2)"
_CANCEL_RUN = """
UPDATE approvals SET status = 'cancelled' WHERE run_id = $1 AND status = ANY($2) RETURNING id
"""
_CANCEL_CALLS = """
UPDATE tool_calls SET status = 'cancelled', error = $2
WHERE run_id = $1 AND status = 'waiting_approval'
"""
_CANCELLED = {"code": "cancelled", "message": "the run was cancelled"}


class Approvals:
    """The approval registry of this process; the rows are shared by all."""

    def __init__(
        self, db: Database, bell: Bell, settings: Settings, policy: PolicyService, audit: AuditLog
    ) -> None:
        self._db = db
        self._bell = bell
        self._policy = policy
        self._audit = audit
        self._timeout_secs = settings.approval_timeout_secs
        self._poll_secs = settings.approval_poll_secs

    async def open(self, connection: Connection, org_id: UUID, wanted: NewApproval) -> Approval:
        """Write a pending approval inside the caller's transaction; ``announce`` it afterwards.

        Raises:
            RateLimitedError: the organisation has 200 pending ones.
        """
        rules = await self._policy.rules(org_id)
        row = await connection.fetchrow(
            _OPEN, new_id(), org_id, wanted.run_id, wanted.conversation_id, wanted.tool_call_id,
            wanted.connector, wanted.source_id, wanted.tool, wanted.args, wanted.args_sha256,
            wanted.effect.value, list(wanted.reasons), wanted.by_policy, wanted.requested_by,
            float(rules.approval_timeout_secs or self._timeout_secs),
        )  # fmt: skip
        if row is None:
            raise RateLimitedError(
                f"{MAX_PENDING} approvals wait in this organisation; decide some of them first",
                code="quota_exceeded",
            )
        return Approval(**dict(row))

    async def announce(self, approval: Approval) -> None:
        """Tell every process that an approval has changed."""
        await self._ring(approval.org_id, approval.id, approval.run_id, approval.status)

    async def of_call(self, org_id: UUID, tool_call_id: UUID) -> Approval | None:
        """The approval of a tool call, or None."""
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_OF_CALL, tool_call_id)
        return None if row is None else Approval(**dict(row))

    async def get(self, principal: Principal, approval_id: UUID) -> Approval:
        """One approval that ``principal`` may see.

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
        """Approvals that ``principal`` may see, newest first."""
        own = mine or principal.require("chat.read") == "own"
        requester = principal.user_id if own else None
        async with self._db.tenant(principal.org_id) as connection:
            rows = await connection.fetch(_LIST, status, requester, conversation_id, before, limit)
        return tuple(Approval(**dict(row)) for row in rows)

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
        """Approve or deny.

        Raises:
            PermissionDeniedError: no ``chat.approve``; or a policy asked and the grant is not
                full; or the organisation wants a second person and this is the requester.
            NotFoundError: there is none, or it is somebody else's under the grant ``own``.
            ConflictError: ``already_decided``.
            GoneError: ``approval_expired``.
        """
        grant = principal.require("chat.approve")
        approval = await self._row(principal.org_id, approval_id)
        if grant != "full":
            if approval.requested_by != principal.user_id:
                raise _not_found(approval_id)
            if approval.by_policy:
                raise PermissionDeniedError(
                    "a policy asked for this approval: it takes an owner or an admin to decide it",
                    permission="chat.approve",
                )
        rules = await self._policy.rules(principal.org_id)
        if rules.approval_second_person and approval.requested_by == principal.user_id:
            raise PermissionDeniedError(
                "this organisation wants a second person: somebody else has to decide it",
                permission="chat.approve",
            )
        async with self._db.tenant(principal.org_id) as connection:
            row = await connection.fetchrow(
                _DECIDE, approval_id, "approved" if approved else "denied",
                principal.user_id, via, note,
            )  # fmt: skip
        if row is None:
            raise await self._too_late(principal.org_id, approval_id)
        decided = Approval(**dict(row))
        await self.announce(decided)
        await self._audit.append(_entry(principal, decided, approved, request_id))
        return decided

    async def wait(self, org_id: UUID, approval_id: UUID) -> Approval:
        """Return once the approval is no longer pending; expires it when its time is over."""
        async with self._bell.listen(f"ch:approval:{org_id.hex}") as ear:
            while True:
                approval = await self._settled(org_id, approval_id)
                if approval.status != "pending":
                    return approval
                await self._look_again(ear, approval)

    async def _look_again(self, ear: Ear, approval: Approval) -> None:
        """Return when Postgres is worth a look: rung, overdue, or the poll interval is over."""
        async with self._db.tenant(approval.org_id) as connection:
            left = float(await connection.fetchval(_SECS_LEFT, approval.id))
        until = time.monotonic() + min(max(left, 0.0), self._poll_secs)
        while (rest := until - time.monotonic()) > 0:
            rung = await ear.next(rest)
            if rung is None or rung.get("approval_id") == encode("apr", approval.id):
                return

    async def consume(self, connection: Connection, approval_id: UUID, args_sha256: str) -> bool:
        """Use an approval up, inside the transaction that records the intent.

        False when it is not approved (any more) or was given for other arguments.
        """
        return bool(await connection.fetchval(_CONSUME, approval_id, args_sha256))

    async def cancel(self, org_id: UUID, approval_id: UUID) -> None:
        """Void an approval that is pending or approved; others stay as they are."""
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_CANCEL, approval_id, sources_of(APPROVAL, "cancelled"))

    async def cancel_for_run(self, org_id: UUID, run_id: UUID) -> int:
        """Void what a run waits for, approvals and calls; its waiters return. Gives the number."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_CANCEL_RUN, run_id, sources_of(APPROVAL, "cancelled"))
            await connection.execute(_CANCEL_CALLS, run_id, _CANCELLED)
        for row in rows:
            await self._ring(org_id, row["id"], run_id, "cancelled")
        return len(rows)

    async def expire(self) -> int:
        """Expire what is overdue in every organisation; gives the number."""
        async with self._db.system() as connection:
            rows = await connection.fetch(_EXPIRE_ALL)
        for row in rows:
            await self._ring(row["org_id"], row["id"], row["run_id"], "expired")
        return len(rows)

    async def _row(self, org_id: UUID, approval_id: UUID) -> Approval:
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, approval_id)
        if row is None:
            raise _not_found(approval_id)
        return Approval(**dict(row))

    async def _settled(self, org_id: UUID, approval_id: UUID) -> Approval:
        """The row, expired if it is pending and overdue."""
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_EXPIRE_ONE, approval_id)
        if row is None:
            return await self._row(org_id, approval_id)
        expired = Approval(**dict(row))
        await self.announce(expired)
        return expired

    async def _too_late(self, org_id: UUID, approval_id: UUID) -> Exception:
        approval = await self._settled(org_id, approval_id)
        if approval.status == "expired":
            return GoneError(
                "the time to decide is over; let the call be made again", code="approval_expired"
            )
        return ConflictError(
            f"the approval is {approval.status} already", code="already_decided",
            status=approval.status,
        )  # fmt: skip

    async def _ring(
        self, org_id: UUID, approval_id: UUID, run_id: UUID | None, status: str
    ) -> None:
        await self._bell.ring(
            f"ch:approval:{org_id.hex}",
            {
                "approval_id": encode("apr", approval_id),
                "run_id": None if run_id is None else encode("run", run_id),
                "status": status,
            },
        )


def _not_found(approval_id: UUID) -> NotFoundError:
    return NotFoundError(
        f"no approval {encode('apr', approval_id)}; list the pending ones to find yours"
    )


def _entry(
    principal: Principal, approval: Approval, approved: bool, request_id: str | None
) -> AuditEntry:
    return AuditEntry(
        org_id=principal.org_id,
        user_id=principal.user_id,
        api_key_id=principal.api_key_id,
        category="chat",
        action="chat.approve",
        decision="allow",
        resource={
            "type": "approval",
            "id": encode("apr", approval.id),
            "approved": approved,
            "connector": approval.connector,
            "tool": f"{approval.connector}.{approval.tool}",
            "args_sha256": approval.args_sha256,
        },
        reasons=(approval.note,) if approval.note else (),
        context={
            "request_id": request_id,
            "run_id": None if approval.run_id is None else encode("run", approval.run_id),
            "tool_call_id": encode("tc", approval.tool_call_id),
            "via": approval.decided_via,
        },
    )
