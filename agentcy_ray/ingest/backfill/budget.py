"""The budget of a backfill: held block by block before the model is asked, settled after it.

What a block's dollars and GPU seconds will be is told by the blocks before it; the first one is
held by its tokens alone. Nobody is asked at a soft limit: a backfill goes on to the hard one, where
it fails, and is gone on with once more is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import structlog

from agentcy_ray.budgets.amounts import Estimate, Scope, Spent
from agentcy_ray.budgets.ledger import Ledger
from agentcy_ray.budgets.records import Reservation
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.ingest.backfill.records import Backfill
from agentcy_ray.retrieval.embedder import EmbedUsage

AGENT = "embed_backfill"
"""Under this name backfills stand in the usage reports, and an agent's limit of it is theirs."""
TTL_SECS = 3600.0
"""A rate cap may make a block take long."""
MARGIN = 1.25
"""Of an estimate over what the blocks before it say."""
_log = structlog.get_logger(__name__)


@dataclass
class BlockBudget:
    """What one process of one backfill holds and settles."""

    ledger: Ledger
    org_id: UUID
    user_id: UUID | None
    model: str
    _seen: EmbedUsage = field(default_factory=EmbedUsage)

    @classmethod
    def of(cls, ledger: Ledger, backfill: Backfill, model: str) -> BlockBudget:
        """The budget that ``backfill`` draws on."""
        return cls(ledger, backfill.org_id, backfill.created_by, model)

    async def hold(self, tokens: float) -> Reservation:
        """Hold what a block of about ``tokens`` may use.

        Raises:
            BudgetExceededError: a hard limit does not allow it.
            StoreUnavailableError: it is not known to be held.
        """
        scope = Scope(self.org_id, self.user_id, AGENT)
        return await self.ledger.reserve(
            scope, lambda: self._estimate(tokens), model=self.model, ttl_secs=TTL_SECS
        )

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
