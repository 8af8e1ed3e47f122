"""Moves of syncs and jobs under random interleavings: only listed ones happen."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.core.errors import AgentcyError, ConflictError, LeaseLostError
from agentcy_ray.core.states import JOB, SOURCE, SYNC_RUN, may
from agentcy_ray.ingest import transitions
from agentcy_ray.ingest.fence import Lease, acquire
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.queue import Job, JobStatus, NewJob
from tests.ingest.harness import House

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
workers = st.integers(0, 2)


@pytest.mark.requirement("ING-10")
@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(
                ["claim", "succeed", "fail", "dead", "release", "cancelled", "cancel", "retry",
                 "lapse", "due"]
            ),
            workers,
        ),
        max_size=25,
    )
)  # fmt: skip
async def test_jobs_make_listed_moves_only(make_house, moves):
    house: House = await make_house()
    queue = PostgresQueue(house.settings, house.db)
    kind = f"kind-{secrets.token_hex(6)}"
    job = await queue.enqueue(NewJob(org_id=house.org_id, kind=kind, max_attempts=3))
    claims: dict[int, Job] = {}
    state = job.status.value
    for move, worker in moves:
        mine = claims.get(worker)
        try:
            if move == "claim":
                got = await queue.claim(f"w{worker}", [kind], 60)
                if got is not None:
                    claims[worker] = got
            elif move == "cancel":
                await queue.cancel(house.org_id, job.id)
            elif move == "retry":
                await queue.retry(house.org_id, job.id)
            elif move in {"lapse", "due"}:
                column = "lease_until" if move == "lapse" else "run_after"
                async with house.db.system() as connection:
                    await connection.execute(
                        f"UPDATE jobs SET {column} = clock_timestamp() - interval '1s'"
                        f" WHERE id = $1 AND {column} IS NOT NULL",
                        job.id,
                    )
            elif mine is not None:
                if move == "fail":
                    await queue.fail(mine, OSError("passing"))
                elif move == "dead":
                    await queue.fail(mine, ConflictError("for good"))
                else:
                    await getattr(queue, move)(mine)
        except (LeaseLostError, ConflictError):
            assert (await queue.store.get(house.org_id, job.id)).status.value == state
            continue
        after = (await queue.store.get(house.org_id, job.id)).status.value
        steps = _reachable(JOB, state, 3)
        assert after in steps, (move, state, after)
        state = after
    if state == "running":
        newest = max(claim.epoch for claim in claims.values())
        holders = [claim for claim in claims.values() if claim.epoch == newest]
        assert len(holders) == 1, "one worker holds it"
        assert (await queue.succeed(holders[0])).status is JobStatus.SUCCEEDED


@pytest.mark.requirement("ING-10")
@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(["acquire", "publish", "commit", "fail", "cancel", "give_back"]),
            workers,
        ),
        max_size=20,
    )
)
async def test_syncs_make_listed_moves_only_and_by_the_newest_owner_only(make_house, moves):
    house: House = await make_house()
    package = (await house.sync()).package_id
    run = await house.request()
    leases: dict[int, Lease] = {}
    newest, claim, state, source = None, 0, "pending", "synced"
    for move, worker in moves:
        lease = leases.get(worker)
        if move == "acquire":
            claim += 1
            got = await acquire(
                house.db, house.org_id, house.source_id, run.id,
                owner=f"w{worker}", claim=claim, secs=60, engine_lock="test",
            )  # fmt: skip
            if got is not None:
                leases[worker], newest = got[0], worker
        elif lease is not None:
            try:
                await _move(move, lease, package)
            except LeaseLostError:
                pass
            else:
                assert worker == newest, "an old epoch moved something"
        after = (await house.syncs.get(house.org_id, run.id)).status
        now = (await house.row())["status"]
        assert after == state or may(SYNC_RUN, state, after), (move, state, after)
        assert now == source or now in _reachable(SOURCE, source, 2), (move, source, now)
        state, source = after, now


async def _move(move: str, lease: Lease, package) -> None:
    error = AgentcyError("for good")
    match move:
        case "publish":
            async with lease.hold() as connection:
                await transitions.begin_publish(
                    connection, lease, cursors={}, counts={}, rejects=[], full=True
                )
        case "commit":
            async with lease.hold() as connection:
                await transitions.commit(
                    connection, lease, package_id=package, cursors={}, counts={}
                )
        case "fail":
            await transitions.end_badly(lease, "failed", error)
        case "cancel":
            await transitions.end_badly(lease, "cancelled", error)
        case _:
            await transitions.give_back(lease)


def _reachable(machine, state: str, steps: int) -> set[str]:
    found = {state}
    for _ in range(steps):
        found |= {after for each in found for after in machine[each]}
    return found
