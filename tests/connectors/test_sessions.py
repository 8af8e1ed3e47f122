"""The session pool: one session per source, bounded and clean answers, faults as outcomes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from agentcy_ray.connectors.limits import Limits, Pace
from agentcy_ray.connectors.live_sessions import BACK_OFF_MAX_SECS, FRESH_SECS
from agentcy_ray.connectors.local_dispatch import LocalDispatcher
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.connectors.source_records import NewSource, SourceChange
from agentcy_ray.core.errors import (
    ConnectorError,
    ConnectorUnavailableError,
    NotFoundError,
    OutcomeUnknownError,
    SourceConfigError,
    ToolNotFoundError,
)
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import Effect, ToolRequest
from tests.connectors.bench_source import Bench, BenchConnector

CANARY = 'canary-"secret"-98765'
LONG = 60.0
BRIEF = 0.5
"""A deadline that is waited for; a call is sent long before it, on a busy machine too."""


class HandClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(make_store, bench, connector_settings):
    return make_store(Registry([BenchConnector(bench)], connector_settings))


@pytest.fixture
async def source(store, org):
    new = NewSource(name="bench", connector="bench", config={"token": CANARY})
    return await store.create(org.owner, new)


@pytest.fixture
async def pool(store, clock):
    pool = SessionPool(store, idle_secs=600, max_result_bytes=4096, clock=clock)
    yield pool
    await pool.close()


def request(source, tool: str = "echo", effect: Effect = Effect.READ, secs: float = LONG):
    return ToolRequest(
        tool_call_id=new_id(),
        org_id=source.org_id,
        source_id=source.id,
        connector=source.connector,
        tool=tool,
        args={},
        effect=effect,
        deadline=datetime.now(UTC) + timedelta(seconds=secs),
        idempotency_key="key",
    )


async def test_many_calls_share_one_session_and_its_work_folder_is_private(
    pool, source, bench, connector_settings
):
    outcomes = await asyncio.gather(*(pool.call(request(source)) for _ in range(50)))
    assert {(outcome.ok, outcome.value) for outcome in outcomes} == {(True, "fine")}
    assert bench.opened == 1
    folder = connector_settings.state_dir / "sources" / source.id.hex
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_probe_asks_the_session_and_carries_nothing_out(pool, source, bench):
    asked = replace(request(source, "stir"), probe=True)
    assert (await pool.call(asked)).value == {"fate": "not_done", "result": None}
    assert bench.effects == []
    await pool.call(request(source, "stir"))
    assert (await pool.call(asked)).value == {"fate": "done", "result": ["fine", "key"]}
    assert bench.effects == ["stir"]


async def test_an_idle_session_closes_and_the_next_call_opens_another(pool, source, bench, clock):
    await pool.call(request(source))
    clock.now += 599
    assert await pool.sweep() == 0
    clock.now += 1
    assert (await pool.sweep(), bench.closed) == (1, 1)
    assert (await pool.call(request(source))).ok
    assert bench.opened == 2


async def test_a_session_in_use_is_not_idle(pool, source, bench, clock):
    async with pool.session(source.org_id, source.id):
        clock.now += 10_000
        assert await pool.sweep() == 0
    assert bench.closed == 0


async def test_a_changed_config_is_seen_within_seconds(pool, store, org, source, bench, clock):
    assert (await pool.call(request(source, "flavour"))).value == "plain"
    change = SourceChange(config={"token": "***", "flavour": "mint"})
    await store.update(org.owner, source.id, change)
    assert (await pool.call(request(source, "flavour"))).value == "plain"
    clock.now += FRESH_SECS + 0.1
    assert (await pool.call(request(source, "flavour"))).value == "mint"
    assert (bench.opened, bench.closed) == (2, 1)


@pytest.mark.parametrize("form", [UUID, str, lambda source_id: source_id.hex])
async def test_forgetting_a_source_closes_its_session_at_once(pool, source, bench, form):
    await pool.call(request(source))
    await pool.forget(form(source.id) if form is not UUID else source.id)
    assert bench.closed == 1


async def test_a_deleted_source_ends_its_session(pool, store, org, source, bench, clock):
    await pool.call(request(source))
    await store.delete(org.owner, source.id)
    clock.now += FRESH_SECS + 0.1
    outcome = await pool.call(request(source))
    assert (outcome.ok, outcome.error_code, outcome.transient) == (False, "connector_error", False)
    assert bench.closed == 1
    with pytest.raises(NotFoundError):
        async with pool.session(source.org_id, source.id):
            pass


async def test_a_source_that_keeps_failing_is_asked_ever_less_often(pool, source, bench, clock):
    bench.open_error = ConnectorUnavailableError("no route to host")
    for _ in range(2):  # the first failure is retried at once
        assert (await pool.call(request(source))).error_code == "unavailable"
    waits = []
    for attempts in range(2, 11):
        assert "no route to host" in (await pool.call(request(source))).error_message
        with pytest.raises(ConnectorUnavailableError) as caught:
            async with pool.session(source.org_id, source.id):
                pass
        assert bench.opened == attempts
        waits.append(caught.value.details["retry_after_secs"])
        clock.now += waits[-1]
        await pool.call(request(source))
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.0, BACK_OFF_MAX_SECS)
    bench.open_error = None
    clock.now += BACK_OFF_MAX_SECS
    assert (await pool.call(request(source))).ok


async def test_a_session_whose_source_went_away_is_replaced(pool, source, bench):
    await pool.call(request(source))
    bench.error = ConnectorUnavailableError("connection reset")
    lost = await pool.call(request(source))
    assert (lost.error_code, lost.transient, bench.closed) == ("connector_error", True, 1)
    bench.error = None
    assert (await pool.call(request(source))).ok
    assert bench.opened == 2


async def test_a_connector_that_breaks_is_an_outcome_and_gets_a_new_session(pool, source, bench):
    bench.error = ZeroDivisionError(f"with {CANARY}")
    outcome = await pool.call(request(source))
    assert outcome.error_code == "connector_error"
    assert "ZeroDivisionError" in outcome.error_message
    assert "canary" not in repr(outcome)
    assert bench.closed == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectorError("refused"), "connector_error"),
        (ToolNotFoundError("no such tool"), "tool_not_found"),
        (SourceConfigError("bad token", kind="credentials"), "connector_error"),
        (TimeoutError(), "connector_timeout"),
    ],
)
async def test_faults_come_back_in_the_codes_that_a_model_may_see(pool, source, bench, error, code):
    bench.error = error
    outcome = await pool.call(request(source))
    assert (outcome.ok, outcome.error_code) == (False, code)


async def test_a_read_is_stopped_at_its_deadline(pool, source, bench):
    await pool.call(request(source))
    outcome = await pool.call(request(source, "wait", secs=BRIEF))
    assert (outcome.error_code, outcome.transient) == ("connector_timeout", True)
    await asyncio.wait_for(bench.stop.wait(), 60)
    assert (await pool.call(request(source))).ok


async def test_a_write_past_its_deadline_is_indeterminate_and_goes_on(pool, source, bench):
    await pool.call(request(source))
    outcome = await pool.call(request(source, "wait", Effect.WRITE, secs=BRIEF))
    assert (outcome.ok, outcome.error_code) == (False, "indeterminate")
    bench.go.set()
    await pool.close()
    assert (bench.stopped, bench.effects[-1], bench.closed) == ([], "wait", 1)


async def test_a_write_goes_on_when_its_caller_is_gone(pool, source, bench):
    caller = asyncio.create_task(pool.call(request(source, "wait", Effect.DESTRUCTIVE)))
    await bench.reached.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    bench.go.set()
    await pool.close()
    assert (bench.stopped, bench.effects) == ([], ["wait"])


async def test_a_call_whose_deadline_has_passed_is_never_sent(pool, source, bench):
    outcome = await pool.call(request(source, "echo", Effect.WRITE, secs=-1))
    assert (outcome.error_code, outcome.transient, bench.effects) == ("unavailable", True, [])


async def test_a_result_beyond_the_bound_is_refused(pool, source, bench):
    bench.value = "x" * 5000
    outcome = await pool.call(request(source))
    assert (outcome.ok, outcome.error_code) == (False, "result_too_large")


async def test_results_become_plain_json(pool, source, bench):
    bench.value = {1: Path("a/b"), "at": datetime(2026, 1, 2, tzinfo=UTC), "nul": "a\x00\udcff"}
    outcome = await pool.call(request(source))
    assert outcome.value == {"1": "a/b", "at": "2026-01-02T00:00:00Z", "nul": "a\ufffd\ufffd"}


async def test_a_result_without_a_json_form_is_a_fault_of_the_connector(pool, source, bench):
    bench.value = object()
    assert (await pool.call(request(source))).error_code == "connector_error"


@pytest.mark.requirement("SEC-03")
async def test_a_secret_of_the_source_leaves_its_session_redacted(pool, source, bench):
    bench.value = {"a": f"token={CANARY};", CANARY: [f"{CANARY}{CANARY}", 5, None, True]}
    outcome = await pool.call(request(source))
    assert outcome.value == {
        "a": "token=[redacted];",
        "[redacted]": ["[redacted][redacted]", 5, None, True],
    }
    bench.error = SourceConfigError(f"{CANARY} was refused", kind="credentials", tried=[CANARY])
    assert "canary" not in repr(await pool.call(request(source)))
    with pytest.raises(SourceConfigError) as caught:
        async with pool.session(source.org_id, source.id) as session:
            await session.check()
    assert caught.value.details == {"kind": "credentials", "tried": ["[redacted]"]}
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__} {caught.value.message}"
    assert await pool.check(source.org_id, source.id) == [
        {"kind": "credentials", "message": "[redacted] was refused", "errors": []}
    ]


async def test_a_source_that_checks_out_has_no_faults(pool, source):
    assert await pool.check(source.org_id, source.id) == []


async def test_one_tenant_cannot_call_anothers_source(pool, source, make_org, bench):
    other = await make_org()
    outcome = await pool.call(request(source.model_copy(update={"org_id": other.id})))
    assert (outcome.ok, bench.opened) == (False, 0)


async def test_the_local_dispatcher_raises_what_its_protocol_names(pool, source, bench):
    dispatcher = LocalDispatcher(pool)
    assert (await dispatcher.call(request(source))).value == "fine"
    with pytest.raises(ConnectorUnavailableError):
        await dispatcher.call(request(source, secs=-1))
    with pytest.raises(OutcomeUnknownError):
        await dispatcher.call(request(source, "wait", Effect.WRITE, secs=BRIEF))
    bench.go.set()
    await dispatcher.close()


async def test_an_abandoned_read_stops_and_an_abandoned_write_does_not(pool, source, bench):
    dispatcher = LocalDispatcher(pool)
    read, write = request(source, "wait"), request(source, "wait", Effect.WRITE)
    answers = [asyncio.create_task(dispatcher.call(call)) for call in (read, write)]
    await bench.reached.wait()
    await dispatcher.abandon([read, write])
    assert (await answers[0]).error_code == "cancelled"
    await asyncio.wait_for(bench.stop.wait(), 60)
    bench.go.set()
    assert (await answers[1]).ok
    assert bench.stopped == ["wait"]


async def test_calls_beyond_a_sources_concurrency_wait_their_turn(pool, store, org, bench):
    limited = await store.create(
        org.owner,
        NewSource(
            name="narrow", connector="bench", config={"token": CANARY, "limits": {"concurrency": 3}}
        ),
    )
    await pool.call(request(limited))
    calls = [asyncio.create_task(pool.call(request(limited, "wait"))) for _ in range(10)]
    late = asyncio.create_task(pool.call(request(limited, "wait", secs=0.05)))
    assert (await asyncio.wait_for(late, 60)).error_code == "unavailable"
    assert bench.running == 3
    bench.go.set()
    assert all(outcome.ok for outcome in await asyncio.gather(*calls))
    assert bench.most == 3


async def test_a_source_is_called_no_faster_than_it_says(pool, store, org, bench):
    limits = {"per_second": 0.01, "burst": 2}
    limited = await store.create(
        org.owner,
        NewSource(name="slow", connector="bench", config={"token": CANARY, "limits": limits}),
    )
    first = await asyncio.gather(*(pool.call(request(limited, secs=30)) for _ in range(3)))
    assert [outcome.ok for outcome in first] == [True, True, False]
    assert (first[2].error_code, first[2].transient) == ("unavailable", True)
    assert "0.01 calls a second" in first[2].error_message


def test_a_pace_spaces_calls_out_after_its_burst():
    pace = Pace(Limits(per_second=10, burst=3))
    waits = [pace.reserve(100.0, latest=101.0) for _ in range(5)]
    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2])
    assert pace.reserve(100.0, latest=100.25) is None
    assert pace.reserve(110.0, latest=111.0) == 0


async def test_a_line_of_quick_calls_lets_other_sources_through(pool, store, org, source, bench):
    other = await store.create(
        org.owner, NewSource(name="other", connector="bench", config={"token": CANARY})
    )
    await asyncio.gather(pool.call(request(source)), pool.call(request(other)))
    order: list[str] = []

    async def call(one, name):
        await pool.call(request(one))
        order.append(name)

    many = [asyncio.create_task(call(source, "many")) for _ in range(3000)]
    one = asyncio.create_task(call(other, "one"))
    await asyncio.gather(*many, one)
    assert order.index("one") < 3000


async def test_sessions_beyond_the_bound_are_closed_longest_idle_first(store, org, bench, clock):
    pool = SessionPool(store, max_sessions=2, clock=clock)
    sources = [
        await store.create(
            org.owner, NewSource(name=f"s{i}", connector="bench", config={"token": CANARY})
        )
        for i in range(3)
    ]
    for one in sources:
        clock.now += 1
        await pool.call(request(one))
    assert (bench.opened, bench.closed) == (3, 1)
    await pool.call(request(sources[1]))
    await pool.call(request(sources[2]))
    assert bench.opened == 3
    await pool.close()


async def test_a_connector_that_ends_the_program_ends_only_its_call(pool, source, bench):
    bench.error = SystemExit(1)
    assert "SystemExit" in (await pool.call(request(source))).error_message
    bench.error = None
    assert (await pool.call(request(source))).ok
