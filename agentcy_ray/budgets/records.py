"""What is asked of the ledger and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from agentcy_ray.budgets.amounts import EACH, Amounts, Draw, Hold, Key, Level, Scope, Spent, shown
from agentcy_ray.core.errors import BudgetExceededError

Closing = Literal["settled", "released", "expired"]
_WHOSE: Mapping[Level, str] = {
    "org": "the organisation",
    "user": "this user",
    "agent": "agent {}",
    "run": "this run",
}


@dataclass(frozen=True, slots=True)
class SoftLimit:
    """A soft limit that is passed, and that nobody has let this period go beyond yet."""

    key: Key
    soft: int
    hard: int
    wanted: int
    """What is spent and reserved of the balance with what was asked for now."""
    asks: int
    """Which asking this would be; each is decided once."""

    def document(self) -> dict[str, Any]:
        """For whoever decides, in the unit's own numbers."""
        unit = self.key.unit
        return {
            "budget": whose(self.key),
            "unit": unit,
            "period": self.key.period,
            "soft": shown(unit, self.soft),
            "hard": shown(unit, self.hard),
            "wanted": shown(unit, self.wanted),
        }


@dataclass(frozen=True, slots=True)
class Reservation:
    """Leave to use something. ``id`` is None where no limit applies: then nothing is kept of it."""

    scope: Scope
    model: str = ""
    id: UUID | None = None
    holds: tuple[Hold, ...] = ()
    needs_approval: SoftLimit | None = None
    """A person is to be asked first; the hold stands meanwhile, until it is released."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """A reservation to be made."""

    id: UUID
    scope: Scope
    draws: tuple[Draw, ...]
    amounts: Amounts
    model: str
    ttl_secs: float


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a reservation; of several only the first counts."""

    id: UUID
    kind: Closing
    amounts: Amounts
    spent: Spent


@dataclass(frozen=True, slots=True)
class Use:
    """Something used outside of runs that no limit applies to; kept for the reports."""

    scope: Scope
    model: str
    spent: Spent


Write = Reserve | Close | Use


def whose(key: Key) -> str:
    """A balance in words."""
    text = _WHOSE[key.level].format(key.subject if key.subject != EACH else "")
    return f"{text} of {key.period}" if key.level != "run" else text


def exceeded(key: Key, hard: int, used: int, wanted: int) -> BudgetExceededError:
    """The refusal of a hard limit."""
    unit = key.unit
    left = max(hard - used, 0)
    named = {"usd": "USD", "tokens": "tokens", "gpu_seconds": "GPU seconds"}[unit]
    return BudgetExceededError(
        f"the budget of {whose(key)} is {shown(unit, hard):g} {named}; {shown(unit, left):g} are "
        f"left and this may take {shown(unit, wanted):g}; an owner can raise it with "
        "`agentcy budgets set`",
        limit={
            "scope": key.level, "subject": key.subject, "unit": unit, "period": key.period,
            "hard": shown(unit, hard), "used": shown(unit, used), "wanted": shown(unit, wanted),
        },
    )  # fmt: skip
