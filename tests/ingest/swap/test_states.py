"""Moves of swaps under random interleavings: only listed ones happen."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.states import EMBEDDING_SWAP, may
from agentcy_ray.ingest.swap.records import SwapOptions
from agentcy_ray.ingest.swap.store import Swaps
from agentcy_ray.stores.postgres import Database

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
ENDED = {"done", "rolled_back", "cancelled", "failed"}


@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(sorted(EMBEDDING_SWAP)), st.sampled_from(["now", "old", "any"])),
        max_size=25,
    )
)
async def test_swaps_make_listed_moves_only(db: Database, moves):
    org_id, swaps = new_id(), Swaps(db)
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
            org_id, f"org-{org_id.hex}",
        )  # fmt: skip
    async with db.tenant(org_id) as connection:
        made = await swaps.insert(connection, org_id, "scripted:seed=2", SwapOptions())
    _, old = await swaps.take(org_id, made.id)
    _, now = await swaps.take(org_id, made.id)
    state = made.status
    for target, who in moves:
        epoch = {"now": now, "old": old, "any": None}[who]
        async with db.tenant(org_id) as connection:
            moved = await swaps.move(connection, made.id, target, epoch=epoch)
        assert (moved is not None) == (who != "old" and may(EMBEDDING_SWAP, state, target))
        if moved is not None:
            state = moved.status
            assert state == target
            assert (moved.ended_at is not None) == (state in ENDED)
    assert (await swaps.get(org_id, made.id)).status == state
