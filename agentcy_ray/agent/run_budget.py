"""The budget of one run: held before each model turn, settled after it, and asked about between."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from agentcy_ray.agent.budget_approvals import lifted
from agentcy_ray.agent.control import RunControl
from agentcy_ray.agent.run_records import Run
from agentcy_ray.agent.runlog import NewEvent
from agentcy_ray.agent.runs import RunStore
from agentcy_ray.agent.spending import Spending, beyond_soft, used_in_vain
from agentcy_ray.agent.turns import TurnStore
from agentcy_ray.budgets.amounts import Scope, Spent
from agentcy_ray.budgets.records import Reservation, SoftLimit
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.events import EventType, Usage
from agentcy_ray.core.ids import encode
from agentcy_ray.llm.model import ModelRequest

_log = structlog.get_logger(__name__)


class RunBudget:
    """What one executor does about the budgets of one run; nothing where ``spending`` is None."""

    def __init__(
        self,
        spending: Spending | None,
        run: Run,
        control: RunControl,
        runs: RunStore,
        turns: TurnStore,
    ) -> None:
        self._spending = spending
        self._run = run
        self._control = control
        self._runs = runs
        self._turns = turns
        self._settling: set[asyncio.Task[None]] = set()
        self.waits = False
        """Whether a person is being waited for."""

    async def take_over(self) -> None:
        """Settle or give back what a former owner of the run held."""
        if self._spending is not None and self._run.epoch > 1:
            await self._spending.ledger.recovery.take_over(
                self._run.org_id, self._run.id, self._run.epoch
            )

    async def hold(
        self, turn: int, reference: str, request: ModelRequest
    ) -> tuple[ModelRequest, Reservation | None]:
        """Hold what a turn may use; answers the request to make, bounded where a limit applies.

        Raises:
            BudgetExceededError: a hard limit does not allow it, or a person did not.
            Stopped: the run is to stop.
        """
        spending, run = self._spending, self._run
        if spending is None:
            return request, None
        scope = Scope(
            run.org_id, run.principal.user_id, run.agent, run.id, run.epoch, turn
        )  # fmt: skip
        while True:
            held = await spending.ledger.reserve(
                scope, lambda: spending.estimate(reference, request), model=reference
            )
            if held.id is None:
                return request, None
            soft = held.needs_approval
            if soft is None or spending.asks is None:
                return spending.bounded(request), held
            # Nothing is held while a person thinks: others may use what is left meanwhile.
            await spending.ledger.release(held)
            await self._ask(spending, soft)

    def used(self, held: Reservation | None, usage: Usage) -> None:
        """Settle a turn by what its model said; ``close`` waits for it."""
        if held is not None and self._spending is not None:
            self._begin(self._spending.ledger.settle(held, Spent.of(usage)))

    def cut_off(self, held: Reservation | None, request: ModelRequest, said: str) -> None:
        """A turn failed or was stopped: settle what readers have seen of it, else give back."""
        spending = self._spending
        if held is None or spending is None:
            return
        if said:
            spent = used_in_vain(spending, held.model, request, said)
            self._begin(spending.ledger.settle(held, spent))
        else:
            self._begin(spending.ledger.release(held))

    async def close(self) -> None:
        """Wait for what is being settled. What Postgres does not take is recovered later: by the
        next owner of the run, or by the sweep, from the stored turn."""
        for outcome in await asyncio.gather(*self._settling, return_exceptions=True):
            if isinstance(outcome, StoreUnavailableError):
                _log.warning("budget_not_settled", run=self._run.id.hex, reason=outcome.message)
            elif isinstance(outcome, BaseException):
                raise outcome

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        # Not awaited: the next reservation of this process is queued behind it.
        self._settling.add(asyncio.create_task(work, name="budget-settling"))

    async def _ask(self, spending: Spending, soft: SoftLimit) -> None:
        """Wait for a person's answer.

        Raises:
            BudgetExceededError: the answer was no, or none came.
        """
        run, asks = self._run, spending.asks
        assert asks is not None
        approval = await asks.ask(run.principal, soft)
        waits = approval.status == "pending"
        if waits:
            required: NewEvent = (EventType.APPROVAL_REQUIRED, approval.required())
            told = run.epoch > 1 and await self._told(encode("apr", approval.id))
            await self._runs.move(run.key, "waiting_approval", () if told else (required,))
        self.waits = True
        try:
            approval = await self._control.guard(asks.answer(run.org_id, approval, soft))
        finally:
            self.waits = False
        if waits:
            resolved: NewEvent = (EventType.APPROVAL_RESOLVED, approval.resolved())
            await self._runs.move(run.key, "running", (resolved,))
        if not lifted(approval):
            raise beyond_soft(soft, approval.id)

    async def _told(self, approval_id: str) -> bool:
        known = await self._turns.announced(self._run.org_id, self._run.id)
        return f"{EventType.APPROVAL_REQUIRED}:{approval_id}" in known
