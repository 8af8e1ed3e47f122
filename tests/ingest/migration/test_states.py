"""Moves of migrations under random interleavings: only listed ones happen."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.context.migration.records import OPEN
from agentcy_ray.context.migration.store import Migrations, alone
from agentcy_ray.core.states import ENGINE_MIGRATION, may
from tests.ingest.harness import House

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.requirement("ING-10")
@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(sorted(ENGINE_MIGRATION)), st.sampled_from(["now", "old", "any"])
        ),
        max_size=25,
    )
)  # fmt: skip
async def test_migrations_make_listed_moves_only(make_house, moves):
    house: House = await make_house()
    migrations = Migrations(house.db)
    async with house.db.tenant(house.org_id) as connection:
        made = await migrations.insert(connection, house.org_id)
    _, old = await migrations.take(house.org_id, made.id)
    _, now = await migrations.take(house.org_id, made.id)
    state = made.status
    for target, who in moves:
        epoch = {"now": now, "old": old, "any": None}[who]
        async with alone(house.db, house.org_id) as connection:
            moved = await migrations.move(connection, made.id, target, epoch=epoch)
        assert (moved is not None) == (who != "old" and may(ENGINE_MIGRATION, state, target))
        if moved is not None:
            state = moved.status
            assert state == target
            assert (moved.ended_at is not None) == (state not in OPEN)
    assert (await migrations.get(house.org_id, made.id)).status == state
