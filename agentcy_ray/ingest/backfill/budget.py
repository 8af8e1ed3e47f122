"""The budget of a backfill: held block by block before the model is asked, settled after it.

What a block's dollars and GPU seconds will be is told by the blocks before it; the first one is
held by its tokens alone. Whoever goes on with a killed backfill gives back what its process held.
At a soft limit the backfill holds by itself and says so: going on with it
is the approval, and lifts the limit for its period as an approval does. At the hard limit it fails,
which is audited, and is gone on with once more is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.budgets.amounts import Estimate, Key, Scope, Spent
from agentcy_ray.budgets.ledger import Ledger
from agentcy_ray.budgets.raising import lift_key
from agentcy_ray.budgets.records import Reservation, SoftLimit
from agentcy_ray.core.errors import BudgetExceededError, StoreUnavailableError
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.backfill.records import Backfill
from agentcy_ray.retrieval.embedder import EmbedUsage

if TYPE_CHECKING:
    from agentcy_ray.ingest.backfill.rows import Connection

AGENT = "embed_backfill"
"""Under this name backfills stand in the usage reports, and an agent's limit of it is theirs."""
TTL_SECS = 3600.0
"""A rate cap may make a block take long."""
MARGIN = 1.25
"""Of an estimate over what the blocks before it say."""
SOFT = "budget_soft_limit"
"""The code of a backfill that waits to be allowed beyond a soft limit."""
_log = structlog.get_logger(__name__)


@dataclass
class BlockBudget:
    """What one process of one backfill holds and settles."""

    ledger: Ledger
    org_id: UUID
    user_id: UUID | None
    model: str
    backfill_id: UUID
    epoch: int
    _alone: bool = False
    """Whether former owners of the backfill hold nothing any more."""
    _seen: EmbedUsage = field(default_factory=EmbedUsage)

    @classmethod
    def of(cls, ledger: Ledger, backfill: Backfill, model: str) -> BlockBudget:
        """The budget that ``backfill`` draws on."""
        return cls(ledger, backfill.org_id, backfill.created_by, model, backfill.id, backfill.epoch)

    async def hold(self, tokens: float) -> Reservation:
        """Hold what a block of about ``tokens`` may use.

        Raises:
            BudgetExceededError: a hard limit does not allow it; or, with the code ``SOFT``, a soft
                one that nobody has let it go beyond. Nothing is held.
            StoreUnavailableError: it is not known to be held.
        """
        scope = Scope(self.org_id, self.user_id, AGENT, epoch=self.epoch, holder=self.backfill_id)
        if not self._alone and await self.ledger.limited(scope):
            await self.ledger.recovery.take_over(self.org_id, self.backfill_id, self.epoch)
            self._alone = True
        held = await self.ledger.reserve(
            scope, lambda: self._estimate(tokens), model=self.model, ttl_secs=TTL_SECS
        )
        if held.needs_approval is not None:
            await self.ledger.release(held)
            raise _beyond(held.needs_approval)
        return held

    async def close(self, held: Reservation, used: EmbedUsage) -> None:
        """Settle by what was used. What Postgres does not take expires; the block is not lost."""
        self._seen += used
        spent = Spent(used.tokens, 0, used.cost_usd, used.gpu_secs)
        try:
            await self.ledger.settle(held, spent)
        except StoreUnavailableError as error:
            _log.warning("backfill_not_settled", reason=error.message)

    def _estimate(self, tokens: float) -> Estimate:
        most = tokens * MARGIN
        per_token = most / self._seen.tokens if self._seen.tokens else 0.0
        return Estimate(int(most), self._seen.cost_usd * per_token, self._seen.gpu_secs * per_token)


async def allow(connection: Connection, backfill: Backfill) -> None:
    """Let the limit that a backfill waits at be passed until its period ends, if it waits at one.

    Call it in the transaction that goes on with the backfill.
    """
    told = backfill.error or {}
    if told.get("code") == SOFT:
        await lift_key(connection, backfill.org_id, Key(*told["details"]["key"]))


def stopped(backfill: Backfill, error: BudgetExceededError) -> AuditEntry:
    """The entry of a hard stop."""
    return AuditEntry(
        org_id=backfill.org_id,
        user_id=backfill.created_by,
        category="admin",
        action="budget.exceeded",
        decision="deny",
        resource={"type": "budget", "agent": AGENT, **error.details.get("limit", {})},
        reasons=(error.message,),
        context={"backfill_id": encode("bkf", backfill.id)},
    )


def _beyond(soft: SoftLimit) -> BudgetExceededError:
    limit = soft.document()
    return BudgetExceededError(
        f"it would pass the soft limit of {limit['budget']} ({limit['soft']:g} {limit['unit']}); "
        "going on with it (`agentcy embed resume`) allows it up to the hard one",
        code=SOFT,
        limit=limit,
        key=list(soft.key),
    )
