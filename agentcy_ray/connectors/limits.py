"""How hard a source may be used: calls at once, and calls a second."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Limits:
    """What a connector declares for each of its sessions, or what a source is configured to."""

    concurrency: int = 64
    """Calls that run at once on one session; more wait their turn."""
    per_second: float | None = None
    """Calls that may start in a second on average; None = as many as there are."""
    burst: int = 1
    """Calls that may start at once after a pause, where ``per_second`` is set."""


class SourceLimits(BaseModel):
    """Field ``limits`` of every source config: its own word in place of the connector's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int | None = Field(None, ge=1, le=1000, description="calls that run at once")
    per_second: float | None = Field(None, gt=0, le=100_000, description="calls a second")
    burst: int | None = Field(None, ge=1, le=100_000, description="calls at once after a pause")

    def over(self, declared: Limits) -> Limits:
        """The connector's limits with what this source says in their place."""
        return Limits(
            concurrency=self.concurrency or declared.concurrency,
            per_second=self.per_second or declared.per_second,
            burst=self.burst or declared.burst,
        )


class Pace:
    """The generic cell rate algorithm (ITU-T I.371): an average rate that lets bursts through.

    Times are seconds of one monotonic clock.
    """

    def __init__(self, limits: Limits) -> None:
        self._interval = 0.0 if limits.per_second is None else 1 / limits.per_second
        self._slack = self._interval * (limits.burst - 1)
        self._due = -math.inf

    @property
    def free(self) -> bool:
        """Whether nothing is limited."""
        return not self._interval

    def reserve(self, now: float, latest: float) -> float | None:
        """Take a place; the seconds to wait for it. None, and no place, if past ``latest``."""
        due = max(self._due, now)
        wait = max(0.0, due - self._slack - now)
        if now + wait >= latest:
            return None
        self._due = due + self._interval
        return wait
