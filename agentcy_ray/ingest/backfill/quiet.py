"""Quiet hours: windows of local time in which a backfill rests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_STEPS = 64
"""Windows that follow each other without a gap are walked this far; a week has no more."""


class QuietHours(BaseModel):
    """One window: ``days`` at which it begins, from ``start`` to ``end`` on the clock of ``zone``.

    An ``end`` that is not behind ``start`` is one of the next day; both equal = a whole day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: time
    end: time
    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    zone: str = "UTC"

    @field_validator("start", "end")
    @classmethod
    def _local(cls, hour: time) -> time:
        if hour.tzinfo is not None:
            raise ValueError("write the hour without a zone, as in 22:00, and the zone in `zone`")
        return hour

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"no time zone {zone!r}; name one as in Europe/Vienna") from error
        return zone

    def until(self, now: datetime) -> datetime | None:
        """The end of the window that holds ``now``, in UTC; None outside of it."""
        zone = ZoneInfo(self.zone)
        today = now.astimezone(zone).date()
        for day in (today - timedelta(days=1), today):
            if DAYS[day.weekday()] not in self.days:
                continue
            over = timedelta(days=0 if self.end > self.start else 1)
            # Compared in UTC: on the clock of a zone an hour may come twice or not at all.
            begin = datetime.combine(day, self.start, zone).astimezone(UTC)
            end = datetime.combine(day + over, self.end, zone).astimezone(UTC)
            if begin <= now < end:
                return end
        return None


def quiet_until(windows: Sequence[QuietHours], now: datetime) -> datetime | None:
    """When the quiet that holds ``now`` ends, windows that touch taken together; None = no quiet.

    Args:
        windows: the quiet hours.
        now: a time with a zone.
    """
    at, found = now.astimezone(UTC), None
    for _ in range(_STEPS):
        ends = [end for window in windows if (end := window.until(at)) is not None]
        if not ends:
            break
        found = at = max(ends)
    return found
