"""Embedding spaces: what tells them apart, their moves, and that their tables go with them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from agentcy_ray.core.errors import ConflictError, NotFoundError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import EmbedderInfo
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.stores import migrate as migrations
from agentcy_ray.stores.migrate import migrate, shipped
from agentcy_ray.stores.postgres import Database, open_database
from tests.conftest import MakeDatabase
from tests.retrieval.conftest import MakeOrg

FIRST = EmbedderInfo("local:first", "first/8", 8, 512, "aaa")
SECOND = EmbedderInfo("local:second", "second/12", 12, 512, "bbb")
GRACE = timedelta(days=7)


async def _tables(db: Database, space: Space) -> int:
    async with db.system() as connection:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_class WHERE relname = $1", space.table_name
            )
        )


async def _statuses(spaces: SpaceStore, org: UUID) -> dict[UUID, str]:
    return {space.id: space.status for space in await spaces.list(org)}


async def test_a_space_is_told_apart_by_everything_that_makes_its_vectors(
    org: UUID, spaces: SpaceStore
) -> None:
    revised = EmbedderInfo("local:second", "second/12", 12, 512, "ccc")
    made = [
        await spaces.create(org, SECOND),
        await spaces.create(org, revised),
        await spaces.create(org, SECOND, storage="vector"),
        await spaces.create(org, SECOND, distance="l2"),
        await spaces.create(org, SECOND, chunking="tokens=64,overlap=0,v=1"),
    ]
    assert len({space.id for space in made}) == 5
    assert {space.status for space in made} == {"building"}
    assert (await spaces.create(org, SECOND)).id == made[0].id
    assert made[0].chunking == "tokens=384,overlap=48,v=1"


async def test_a_new_space_has_a_table_without_secondary_indexes_behind_row_security(
    org: UUID, db: Database, spaces: SpaceStore, make_org: MakeOrg
) -> None:
    space = await spaces.create(org, SECOND)
    async with db.system() as connection:
        indexes = await connection.fetch(
            "SELECT indexdef FROM pg_indexes WHERE tablename = $1 AND schemaname = 'vectors'",
            space.table_name,
        )
        walls = await connection.fetch(
            "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class"
            " WHERE oid = $1::text::regclass",
            f"public.{space.table_name}",
        )
    assert ["UNIQUE" in row[0] for row in indexes] == [True]
    assert [row[0] for row in walls] == [True]
    other = await make_org()
    assert await spaces.list(other) == ()
    with pytest.raises(NotFoundError):
        await spaces.activate(other, space.id, GRACE)


@pytest.mark.requirement("EMB-07")
async def test_a_space_is_written_from_its_backfill_on_and_until_its_grace_ends(
    org: UUID, spaces: SpaceStore
) -> None:
    old = await spaces.ensure_active(org, FIRST)
    new = await spaces.create(org, SECOND)
    assert await spaces.writable(org) == (old,)
    await spaces.begin(org, new.id)
    assert [space.id for space in await spaces.writable(org)] == [old.id, new.id]
    await spaces.ready(org, new.id)
    await spaces.activate(org, new.id, GRACE)
    assert [space.id for space in await spaces.writable(org)] == [new.id, old.id]
    await spaces.activate(org, old.id, timedelta(0))
    assert [space.id for space in await spaces.writable(org)] == [old.id]
    assert new.id in {space.id for space in await spaces.expired()}
    with pytest.raises(ConflictError, match="its grace is over"):
        await spaces.activate(org, new.id, GRACE)


@pytest.mark.requirement("EMB-07")
async def test_of_many_that_activate_at_once_exactly_one_space_is_active(
    org: UUID, spaces: SpaceStore
) -> None:
    old = await spaces.ensure_active(org, FIRST)
    new = await spaces.create(org, SECOND)
    await spaces.ready(org, new.id)
    answers = await asyncio.gather(
        *(spaces.activate(org, new.id, GRACE) for _ in range(4)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, ConflictError)]
    assert len(refused) == 3
    assert {error.code for error in refused} == {"space_active"}
    assert await _statuses(spaces, org) == {old.id: "retired", new.id: "active"}


async def test_a_space_that_is_searched_or_being_built_is_not_dropped(
    org: UUID, spaces: SpaceStore, db: Database
) -> None:
    active = await spaces.ensure_active(org, FIRST)
    building = await spaces.create(org, SECOND)
    with pytest.raises(ConflictError) as refused:
        await spaces.drop(org, active.id)
    assert refused.value.code == "space_active"
    with pytest.raises(ConflictError) as refused:
        await spaces.drop(org, building.id)
    assert refused.value.code == "state_conflict"
    with pytest.raises(ConflictError):
        await spaces.activate(org, building.id, GRACE)
    assert await _tables(db, active) + await _tables(db, building) == 6


async def test_a_dropped_space_takes_its_table_and_view_along_and_may_be_made_again(
    org: UUID, spaces: SpaceStore, db: Database
) -> None:
    space = await spaces.create(org, SECOND)
    await spaces.begin(org, space.id)
    failed = await spaces.fail(org, space.id, {"code": "embedder_unavailable"})
    assert failed.error == {"code": "embedder_unavailable"}
    assert await spaces.writable(org) == ()
    await spaces.drop(org, space.id)
    assert await _tables(db, space) == 0
    assert await spaces.list(org) == ()
    with pytest.raises(NotFoundError):
        await spaces.get(org, space.id)
    again = await spaces.create(org, SECOND)
    assert again.id != space.id
    await spaces.fail(org, again.id, {})
    third = await spaces.create(org, SECOND)
    assert await _tables(db, again) == 0
    assert await _tables(db, third) == 3


async def test_the_end_of_an_organisation_takes_its_vectors_along(
    make_org: MakeOrg, spaces: SpaceStore, db: Database
) -> None:
    org = await make_org()
    made = [await spaces.ensure_active(org, FIRST), await spaces.create(org, SECOND)]
    async with db.system() as connection:
        await connection.execute("DELETE FROM organizations WHERE id = $1", org)
    assert [await _tables(db, space) for space in made] == [0, 0]


@pytest.mark.requirement("TEN-06")
async def test_requests_may_not_call_what_makes_and_drops_tables(
    org: UUID, spaces: SpaceStore, db: Database
) -> None:
    space = await spaces.ensure_active(org, FIRST)
    calls = (
        f"SELECT create_vector_table('{space.id}', '{org}', 8, 'vector')",
        f"SELECT build_vector_indexes('{space.id}', 'vector', 'l2', 16, 64)",
        f"SELECT drop_vector_table('{space.id}')",
    )
    for call in calls:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with db.tenant(org) as connection:
                await connection.execute(call)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.system() as connection:
            await connection.execute(calls[2])


_INSERT = (
    "INSERT INTO {table} (chunk_key, org_id, node_id, realm, labels, source_id, connector,"
    " external_id, name, text, properties, embedding)"
    " VALUES ($2, $1, 'n', 'r', '{{}}', $1, 'git', 'x', 'n', 't', '{{}}', '[1,0,0,0,0,0,0,0]')"
)


@pytest.mark.requirement("TEN-06")
async def test_only_rows_of_the_owner_by_the_owner_get_past_the_fence_of_a_table(
    org: UUID, spaces: SpaceStore, db: Database, make_org: MakeOrg
) -> None:
    space, other = await spaces.ensure_active(org, FIRST), await make_org()
    leaf = f"vectors.{space.table_name}"
    insert = _INSERT.format(table=leaf)
    async with db.tenant(org) as connection:
        await connection.execute(insert, org, "ours")
    with pytest.raises(asyncpg.CheckViolationError):
        async with db.tenant(org) as connection:
            await connection.execute(insert, other, "theirs")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="another organisation"):
        async with db.tenant(other) as connection:
            await connection.execute(insert, org, "planted")
    for statement in (
        f"SELECT * FROM {leaf}",
        f"DELETE FROM {leaf}",
        f"UPDATE {leaf} SET name = ''",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with db.tenant(org) as connection:
                await connection.execute(statement)
    async with db.tenant(org) as connection:
        keys = await connection.fetch(f"SELECT chunk_key FROM {space.table_name}")
    assert [row[0] for row in keys] == ["ours"]


async def test_tables_of_the_former_version_become_partitions_with_their_rows_and_indexes(
    make_database: MakeDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, org, space_id = await make_database(superuser=True), new_id(), new_id()
    table = f"vec_{space_id.hex}"
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "shipped", lambda: [m for m in shipped() if m.version <= 12])
        await migrate(url)
    owner = await asyncpg.connect(url)
    await owner.execute(
        "INSERT INTO organizations (id, name, display_name) VALUES ($1, 'a', 'a')", org
    )
    await owner.execute(
        "INSERT INTO embedding_spaces (id, org_id, embedder, signature, dim, storage, table_name,"
        " status) VALUES ($1, $2, 'local:first', 'first/8', 8, 'halfvec', $3, 'active')",
        space_id, org, table,
    )  # fmt: skip
    await owner.execute("SELECT create_vector_table($1, 8, 'halfvec', 16, 128)", space_id)
    await owner.execute(_INSERT.format(table=table), org, "old")
    await migrate(url)
    wanted = await owner.fetch("SELECT name FROM vector_indexes($1, '', '', 1, 1)", space_id)
    found = await owner.fetch("SELECT indexname FROM pg_indexes WHERE schemaname = 'vectors'")
    await owner.close()
    assert len(wanted) == 7
    assert {row[0] for row in wanted} < {row[0] for row in found}
    db = await open_database(url, pool_max=2)
    try:
        space = await SpaceStore(db, settings).ensure_active(org, FIRST)
        assert (space.id, space.written_since) == (space_id, space.created_at)
        async with db.tenant(org) as connection:
            await connection.execute(_INSERT.format(table=f"vectors.{table}"), org, "new")
            for name in (table, f"live.{table}"):
                rows = await connection.fetch(f"SELECT chunk_key FROM {name} ORDER BY chunk_key")
                assert [row[0] for row in rows] == ["new", "old"]
        async with db.tenant(new_id()) as connection:
            for name in (table, f"live.{table}"):
                assert await connection.fetch(f"SELECT 1 FROM {name}") == []
    finally:
        await db.close()
