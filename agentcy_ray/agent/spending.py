"""Budgets as models use them up: what a turn may cost, and who is asked beyond a soft limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from agentcy_ray.agent.budget_approvals import BudgetApprovals, lifted
from agentcy_ray.agent.gates import Gates
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.budgets.amounts import Estimate, Scope, Spent
from agentcy_ray.budgets.ledger import Ledger, Refused
from agentcy_ray.budgets.records import Reservation, SoftLimit
from agentcy_ray.core.errors import BudgetExceededError
from agentcy_ray.core.ids import encode
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.llm.model import ModelRequest, estimate_tokens
from agentcy_ray.llm.registry import Models
from agentcy_ray.llm.table import PricedTokens
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database


class Spending:
    """What callers of models hold and settle.

    Args:
        ledger: of this process.
        models: their prices.
        asks: the way to a person; None = a soft limit is let pass.
        output_tokens: longest answer of a turn that a limit applies to.
    """

    def __init__(
        self, ledger: Ledger, models: Models, asks: BudgetApprovals | None, output_tokens: int
    ) -> None:
        self.ledger = ledger
        self.asks = asks
        self._models = models
        self._output_tokens = output_tokens
        self._gpu_secs: dict[str, float] = {}

    def bounded(self, request: ModelRequest) -> ModelRequest:
        """The request with a longest answer, so that its estimate holds."""
        return request.model_copy(update={"max_tokens": self._longest(request)})

    def estimate(self, reference: str, request: ModelRequest) -> Estimate:
        """The most that a turn uses: its prompt and its longest answer."""
        read = prompt_tokens(request)
        return self.tokens(reference, read, self._longest(request))

    def tokens(self, reference: str, in_tokens: int, out_tokens: int = 0) -> Estimate:
        """An estimate of tokens at a model's price."""
        return Estimate(in_tokens + out_tokens, self.price(reference, in_tokens, out_tokens))

    def vectors(self, reference: str, tokens: int) -> Estimate:
        """An estimate of embedding, with the seconds of a GPU that the last call of it took."""
        gpu_secs = tokens * self._gpu_secs.get(reference, 0.0)
        return replace(self.tokens(reference, tokens), gpu_seconds=gpu_secs)

    def embedded(self, reference: str, spent: Spent) -> None:
        """Learn from a call what the next one may take of a GPU."""
        if spent.gpu_seconds and spent.in_tokens:
            self._gpu_secs[reference] = spent.gpu_seconds / spent.in_tokens

    def price(self, reference: str, in_tokens: int, out_tokens: int) -> float | None:
        """US dollars; None when the model has no known price."""
        tokens = PricedTokens(input_tokens=in_tokens, output_tokens=out_tokens)
        return self._models.price(reference, tokens)

    def _longest(self, request: ModelRequest) -> int:
        return min(request.max_tokens or self._output_tokens, self._output_tokens)

    async def hold_call(
        self,
        principal: Principal,
        reference: str,
        estimate: Estimate | Callable[[], Estimate],
        *,
        agent: str | None = None,
    ) -> Reservation:
        """Hold what a call outside of a run may use; settle or release it with ``ledger``.

        Nobody waits in a call: past a soft limit an approval is opened, and the call is refused
        until somebody has approved.

        Args:
            principal: who calls.
            reference: the model.
            estimate: the most that it uses, as ``estimate`` or ``tokens`` tells; a function is
                called only where a limit applies.
            agent: whose budget it draws on too.

        Raises:
            BudgetExceededError: a hard limit does not allow it, or nobody has approved to go beyond
                a soft one; ``details["approval_id"]`` then says what waits for a decision.
        """
        scope = Scope(principal.org_id, principal.user_id, agent)
        while True:
            held = await self.ledger.reserve(scope, estimate, model=reference)
            soft = held.needs_approval
            if soft is None or self.asks is None:
                return held
            await self.ledger.release(held)
            approval = await self.asks.ask(principal, soft)
            if approval.status == "pending":
                raise beyond_soft(soft, approval.id)
            answered = await self.asks.answer(principal.org_id, approval, soft)
            if not lifted(answered):
                raise beyond_soft(soft, approval.id)
            # Another soft limit may be passed beside the one that was lifted.


def open_spending(
    db: Database,
    settings: Settings,
    bell: Bell,
    models: Models,
    gates: Gates,
    metrics: Metrics | None = None,
) -> Spending:
    """Budgets of a process, over its gates; close the ledger with ``ledger.close``."""
    ledger = Ledger(db, settings, bell, metrics=metrics, refused=_witness(gates.audit))
    asks = BudgetApprovals(gates.approvals, gates.calls)
    return Spending(ledger, models, asks, settings.budget_turn_output_tokens)


def _witness(audit: AuditLog) -> Refused:
    """Puts every hard stop into the audit log."""

    def refused(scope: Scope, error: BudgetExceededError) -> None:
        audit.note(
            AuditEntry(
                org_id=scope.org_id,
                user_id=scope.user_id,
                category="admin",
                action="budget.exceeded",
                decision="deny",
                resource={"type": "budget", "agent": scope.agent, **error.details["limit"]},
                reasons=(error.message,),
                context={"run_id": None if scope.run_id is None else encode("run", scope.run_id)},
            )
        )

    return refused


def prompt_tokens(request: ModelRequest) -> int:
    """What a model reads, estimated: the text, the messages and the tools on offer."""
    return estimate_tokens(request.model_dump_json(exclude={"evidence", "max_tokens"}))


def used_in_vain(spending: Spending, reference: str, request: ModelRequest, said: str) -> Spent:
    """What a turn that was cut off is reckoned to have used."""
    read, written = prompt_tokens(request), estimate_tokens(said)
    return Spent(read, written, spending.price(reference, read, written))


def beyond_soft(soft: SoftLimit, approval_id: UUID) -> BudgetExceededError:
    """The refusal of what nobody has approved."""
    approval = encode("apr", approval_id)
    return BudgetExceededError(
        f"this would pass a soft limit and nobody has approved it: approve {approval} to go on to "
        "the hard limit, or raise the limit with `agentcy budgets set`",
        limit=soft.document(),
        approval_id=approval,
    )
