"""Quiet hours, the rate cap and the share, on a clock that the test holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from agentcy_ray.ingest.backfill.pace import Pace
from agentcy_ray.ingest.backfill.quiet import QuietHours, quiet_until
from agentcy_ray.ingest.backfill.records import BackfillOptions
from tests.ingest.backfill.conftest import MakeFilling

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def at(hour: int, minute: int = 0, day: int = 0) -> datetime:
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


class Clock:
    """Sleeping makes it later, and nothing else does."""

    def __init__(self) -> None:
        self.now = 100.0

    async def sleep(self, secs: float) -> None:
        self.now += secs

    def pace(self, **options: float) -> Pace:
        return Pace(BackfillOptions.model_validate(options), lambda: self.now, self.sleep)


@pytest.mark.parametrize(
    ("windows", "now", "until"),
    [
        ([("09:00", "17:00")], at(8, 59), None),
        ([("09:00", "17:00")], at(9), at(17)),
        ([("09:00", "17:00")], at(17), None),
        ([("22:00", "06:00")], at(23), at(6, day=1)),
        ([("22:00", "06:00")], at(5), at(6)),
        ([("09:00", "12:00"), ("12:00", "17:00")], at(10), at(17)),
        ([("00:00", "00:00")], at(10), at(0, day=1) + timedelta(days=63)),
    ],
)
def test_quiet_hours_say_when_they_end(windows, now, until):
    made = [QuietHours.model_validate({"start": a, "end": b}) for a, b in windows]
    assert quiet_until(made, now) == until


def test_quiet_hours_go_by_the_days_and_the_clock_of_their_zone():
    office = QuietHours.model_validate({
        "start": "09:00", "end": "17:00", "zone": "Europe/Vienna", "days": ["mon"],
    })  # fmt: skip
    assert quiet_until([office], at(8)) == at(16), "an hour ahead of UTC in winter"
    assert quiet_until([office], at(8, day=1)) is None
    with pytest.raises(ValidationError, match="no time zone"):
        QuietHours.model_validate({"start": "09:00", "end": "17:00", "zone": "Mars/Base"})


def test_the_night_in_which_the_clock_goes_back_is_an_hour_longer():
    night = QuietHours.model_validate({"start": "01:00", "end": "04:00", "zone": "Europe/Vienna"})
    begin = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)  # 01:30, and the hour from 2 comes twice
    assert quiet_until([night], begin) == datetime(2026, 10, 25, 3, tzinfo=UTC)


def test_hours_that_bring_a_zone_of_their_own_are_refused():
    with pytest.raises(ValidationError, match="without a zone"):
        QuietHours.model_validate({"start": "22:00Z", "end": "06:00"})


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_is_a_number_above_nothing(rate: float):
    for name in ("max_chunks_per_s", "max_tokens_per_s"):
        with pytest.raises(ValidationError):
            BackfillOptions.model_validate({name: rate})


async def test_no_more_is_let_through_than_the_cap_allows():
    clock = Clock()
    pace = clock.pace(max_chunks_per_s=100, max_tokens_per_s=1000)
    began = clock.now
    for _ in range(10):
        await pace.admit(50, 2000)  # two seconds' worth of tokens
    assert clock.now - began == 18, "the tenth starts when nine have had their time"
    clock.now += 1000
    began = clock.now
    await pace.admit(50, 0)
    await pace.admit(50, 0)
    assert clock.now - began == 0.5, "a rest is not saved up for a burst"


async def test_a_share_leaves_the_model_to_others_for_the_rest_of_the_time():
    clock = Clock()
    await clock.pace(share=0.25).rest(1.0)
    assert clock.now == 103
    await clock.pace().rest(1.0)
    assert clock.now == 103
    await clock.pace(share=0.1).rest(20.0)
    assert clock.now == 283, "also where a call takes long"


async def test_in_quiet_hours_the_worker_is_free_and_the_backfill_waits(make_filling: MakeFilling):
    filling = await make_filling(20)
    backfill = await filling.start(
        quiet=[QuietHours.model_validate({"start": "09:00", "end": "17:00"})]
    )
    waiting = await filling.attempt(backfill, now=lambda: at(10))
    assert (waiting.status, waiting.note) == ("queued", "quiet hours until 2026-11-23 17:00 UTC")
    assert waiting.job_id != backfill.job_id
    assert await filling.held() == {}
    ended = await filling.attempt(waiting, now=lambda: at(18))
    assert ended.status == "done"
    await filling.assert_complete()
