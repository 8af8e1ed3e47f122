"""What is counted: US dollars, tokens and seconds of a GPU, and whose they are.

Inside, amounts are whole numbers (1e-9 USD, tokens, milliseconds), so that sums of any length lose
nothing; at the border they are numbers of the unit's own name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

from agentcy_ray.core.events import Usage

Unit = Literal["usd", "tokens", "gpu_seconds"]
Level = Literal["org", "user", "agent", "run"]
PARTS: Mapping[Unit, int] = {"usd": 1_000_000_000, "tokens": 1, "gpu_seconds": 1000}
"""Whole numbers of a unit."""
EACH = "*"
"""Subject of a limit that holds for each one, and of the organisation itself."""


def whole(unit: Unit, amount: float, *, up: bool = False) -> int:
    """``amount`` as a whole number; ``up`` for what must not be too little."""
    exact = amount * PARTS[unit]
    # What a float cannot say exactly is not a reason to reserve one more.
    return math.ceil(exact - 1e-6 * max(1.0, abs(exact) * 1e-6)) if up else round(exact)


def shown(unit: Unit, amount: int) -> float:
    """A whole number as people read it."""
    return amount / PARTS[unit]


@dataclass(frozen=True, slots=True)
class Scope:
    """Who uses something. A run names its epoch and turn, so that a successor can settle for it;
    other work that is taken over names itself as ``holder``, with its epoch."""

    org_id: UUID
    user_id: UUID | None = None
    agent: str | None = None
    run_id: UUID | None = None
    epoch: int = 0
    turn: int = 0
    holder: UUID | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that something will use; None = it uses nothing of this unit, or has no price."""

    tokens: int | None = None
    cost_usd: float | None = None
    gpu_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used in the end."""

    in_tokens: int = 0
    out_tokens: int = 0
    cost_usd: float | None = 0.0
    gpu_seconds: float = 0.0

    @classmethod
    def of(cls, usage: Usage) -> Spent:
        """What a model said."""
        return cls(usage.in_tokens, usage.out_tokens, usage.cost_usd)


class Amounts(NamedTuple):
    """Whole numbers of every unit."""

    usd: int = 0
    tokens: int = 0
    gpu_seconds: int = 0

    def of(self, unit: Unit) -> int:
        """The amount of one unit."""
        return getattr(self, unit)


class Key(NamedTuple):
    """A balance. ``period`` is a day as ``2026-11-23``, or ``run``."""

    level: Level
    subject: str
    unit: Unit
    period: str


class Draw(NamedTuple):
    """A balance that is to be drawn on in its present period."""

    level: Level
    subject: str
    id: UUID | None
    """Of the user or run that ``subject`` names."""
    unit: Unit


class Hold(NamedTuple):
    """What a reservation keeps of a balance."""

    key: Key
    amount: int
