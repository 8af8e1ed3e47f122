"""The ledger: reserve before something is used, settle after, release when it was not.

A hard limit is exact however many processes draw on it, since every reservation takes the row locks
of its balances. Reservations of one process go together in one commit (``stores/group_commit.py``),
and where no limit applies to a scope nothing is locked or written at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast
from uuid import UUID

from agentcy_ray.budgets.amounts import Amounts, Draw, Estimate, Scope, Spent, Unit, whole
from agentcy_ray.budgets.limits import LimitStore
from agentcy_ray.budgets.records import Close, Closing, Reservation, Reserve, Use, Write
from agentcy_ray.budgets.recovery import Recovery
from agentcy_ray.budgets.writes import put
from agentcy_ray.core.errors import BudgetExceededError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.group_commit import GroupCommit
from agentcy_ray.stores.postgres import Database

TTL_SECS = 900.0
"""How long a reservation stands when nobody closes it; that of a run stands while the run lives."""
Refused = Callable[[Scope, BudgetExceededError], None]


class Ledger:
    """Budgets of all organisations, as one process draws on them.

    Args:
        db: where the rows are.
        settings: the price of a GPU's second.
        bell: tells of changed limits; without it they are looked at every few seconds.
        metrics: of the process.
        refused: hears of every hard stop, for the audit log.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        bell: Bell | None = None,
        *,
        metrics: Metrics | None = None,
        refused: Refused | None = None,
    ) -> None:
        self.limits = LimitStore(db, bell)
        self._gpu_second_usd = settings.gpu_second_usd
        self._outcomes = (metrics or Metrics()).budget_reservations
        self._refused = refused
        self._writes = GroupCommit[Write, Reservation | bool](db, put)
        self.recovery = Recovery(db, self._close)

    async def limited(self, scope: Scope) -> bool:
        """Whether any limit applies, so that an estimate is worth its work."""
        return bool((await self.limits.watched(scope.org_id)).draws(scope))

    async def reserve(
        self,
        scope: Scope,
        estimate: Estimate | Callable[[], Estimate],
        *,
        model: str = "",
        ttl_secs: float = TTL_SECS,
    ) -> Reservation:
        """Hold an estimate on every balance that ``scope`` draws on, or on none.

        Past a soft limit ``needs_approval`` says so; the hold stands all the same, so that whoever
        goes on without asking stays within the hard limit.

        Args:
            scope: who is going to use it.
            estimate: the most that it will be; a function is called only where a limit applies.
            model: for the reports.
            ttl_secs: when to give it up if nobody closes it and its run is not alive.

        Raises:
            BudgetExceededError: a hard limit does not allow it; nothing is held.
            StoreUnavailableError: it is not known to be held; what is will expire.
        """
        draws = (await self.limits.watched(scope.org_id)).draws(scope)
        if not draws:
            return Reservation(scope, model)
        wanted = self._wanted(estimate() if callable(estimate) else estimate)
        draws = [draw for draw in draws if draw.unit in wanted]
        if not draws:
            return Reservation(scope, model)
        try:
            reservation = await self._hold(scope, draws, wanted, model, ttl_secs)
        except BudgetExceededError as error:
            # What dead processes hold is given back before anybody is refused for it.
            if not await self.recovery.sweep(scope.org_id):
                raise self._refusal(scope, error) from None
            try:
                reservation = await self._hold(scope, draws, wanted, model, ttl_secs)
            except BudgetExceededError as again:
                raise self._refusal(scope, again) from None
        self._outcomes.of("soft" if reservation.needs_approval else "held").inc()
        return reservation

    async def settle(self, reservation: Reservation, spent: Spent) -> None:
        """Put what was used in the place of what was held; a second time it does nothing.

        What was used counts even when the reservation was released meanwhile. Outside of runs it
        goes into the usage reports too, with or without a limit; a run's does when it ends.

        Raises:
            StoreUnavailableError: it is not known to be kept.
        """
        org_id = reservation.scope.org_id
        if reservation.id is not None:
            await self._close(org_id, reservation.id, "settled", spent)
        elif reservation.scope.run_id is None and any(self._counted(spent)):
            use = Use(reservation.scope, reservation.model, self._priced(spent))
            await asyncio.shield(self._writes.hand_in(org_id, use))

    async def release(self, reservation: Reservation) -> None:
        """Give back what was held and not used; a second time it does nothing.

        Raises:
            StoreUnavailableError: it is not known to be given back; it will expire.
        """
        if reservation.id is not None:
            await self._close(reservation.scope.org_id, reservation.id, "released", Spent())

    async def close(self) -> None:
        """Stop listening to changes of limits."""
        await self.limits.close()

    async def _hold(
        self,
        scope: Scope,
        draws: Sequence[Draw],
        wanted: Mapping[Unit, int],
        model: str,
        ttl_secs: float,
    ) -> Reservation:
        write = Reserve(new_id(), scope, tuple(draws), Amounts(**wanted), model, ttl_secs)
        future = self._writes.hand_in(scope.org_id, write)
        try:
            return cast(Reservation, await asyncio.shield(future))
        except asyncio.CancelledError:
            future.add_done_callback(self._give_back)
            raise

    def _give_back(self, future: asyncio.Future[Reservation | bool]) -> None:
        """Release what was held for a caller that has gone away; a failure leaves it to expire."""
        if future.cancelled() or future.exception() is not None:
            return
        held = cast(Reservation, future.result())
        assert held.id is not None
        self._writes.hand_in(held.scope.org_id, Close(held.id, "released", Amounts(), Spent()))

    async def _close(self, org_id: UUID, id_: UUID, kind: Closing, spent: Spent) -> bool:
        """Close a reservation, whoever holds it; whether this was its end."""
        close = Close(id_, kind, self._counted(spent), self._priced(spent))
        was_it = cast(bool, await asyncio.shield(self._writes.hand_in(org_id, close)))
        if was_it:
            self._outcomes.of(kind).inc()
        return was_it

    def _wanted(self, estimate: Estimate) -> dict[Unit, int]:
        """Whole numbers of the units that are known, GPU seconds priced into dollars too."""
        wanted: dict[Unit, int] = {}
        if estimate.tokens is not None:
            wanted["tokens"] = estimate.tokens
        cost = estimate.cost_usd
        if estimate.gpu_seconds is not None:
            wanted["gpu_seconds"] = whole("gpu_seconds", estimate.gpu_seconds, up=True)
            cost = (cost or 0.0) + estimate.gpu_seconds * self._gpu_second_usd
        if cost is not None:
            wanted["usd"] = whole("usd", cost, up=True)
        return wanted

    def _priced(self, spent: Spent) -> Spent:
        return replace(
            spent, cost_usd=(spent.cost_usd or 0.0) + spent.gpu_seconds * self._gpu_second_usd
        )

    def _counted(self, spent: Spent) -> Amounts:
        return Amounts(
            usd=whole("usd", self._priced(spent).cost_usd or 0.0),
            tokens=spent.in_tokens + spent.out_tokens,
            gpu_seconds=whole("gpu_seconds", spent.gpu_seconds),
        )

    def _refusal(self, scope: Scope, error: BudgetExceededError) -> BudgetExceededError:
        self._outcomes.of("refused").inc()
        if self._refused is not None:
            self._refused(scope, error)
        return error
